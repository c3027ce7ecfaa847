"""The places where things are kept: read from the environment once, in the process that a user starts, and passed on as
an argument.

SAFEMIRAGE_STORAGE      folder of runs, exports, suites and databases (default ~/.safemirage) SAFEMIRAGE_STORE_URL
database of runs, samples and evaluations (default: SQLite in the storage) MLFLOW_TRACKING_URI     tracking server or
database (default: SQLite in the storage) SAFEMIRAGE_DATA         where relative inputs of a run file are looked up
(default: the working folder; in a job, nowhere)

Every process of a cluster starts with an environment of its own, that of its node. So a driver gives its `Settings` to
each trial, task, worker and replica. What other libraries read from the environment travels with them: `variables` by
Ray's runtime environment, which anyone who sees the dashboard can read, and `secrets` by arguments alone.
"""

import json
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

from sqlalchemy import URL

from safemirage.config.generators import OpenAIConfig
from safemirage.config.loading.identity import is_local
from safemirage.config.loading.load import ConfigError, load_config
from safemirage.config.train import SNAPSHOT
from safemirage.config.types import nodes
from safemirage.config.world import is_miniature
from safemirage.databases import full, sqlite_url, store_url
from safemirage.storage import Storage

T = TypeVar("T")

STORAGE = "SAFEMIRAGE_STORAGE"
STORE_URL = "SAFEMIRAGE_STORE_URL"
TRACKING_URI = "MLFLOW_TRACKING_URI"
DATA = "SAFEMIRAGE_DATA"

PASSED_ON = (
    "HF_DATASETS_OFFLINE",
    "HF_ENDPOINT",
    "HF_HOME",
    "HF_HUB_CACHE",
    "HF_HUB_OFFLINE",
    "HF_XET_HIGH_PERFORMANCE",
    "TRANSFORMERS_OFFLINE",
    "PYTORCH_ALLOC_CONF",
    "PYTORCH_CUDA_ALLOC_CONF",
    "TORCH_EXTENSIONS_DIR",
    "CUDA_DEVICE_ORDER",
    "OMPI_MCA_btl_tcp_if_include",
    "CURL_CA_BUNDLE",
    "REQUESTS_CA_BUNDLE",
    "SSL_CERT_FILE",
    "MLFLOW_TRACKING_INSECURE_TLS",
    "MLFLOW_TRACKING_SERVER_CERT_PATH",
    "MLFLOW_S3_ENDPOINT_URL",
    "PGPASSFILE",
    "PGSSLMODE",
    "PGSSLROOTCERT",
    "SAFEMIRAGE_GIT_COMMIT",
)
PASSED_ON_PREFIXES = ("NCCL_", "TORCH_NCCL_", "GLOO_", "UCX_", "FI_", "VLLM_")
"""Variables that each process of a run gets from the driver's environment, unless their name says that they are secret."""
SECRETS = (
    "HF_TOKEN",
    "HUGGING_FACE_HUB_TOKEN",
    "MLFLOW_TRACKING_USERNAME",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
    "PGPASSWORD",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    *(
        name
        for upper in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
        for name in (upper, upper.lower())
    ),
)
"""What may hold a secret (a proxy's URL may hold a password): given to each process as an argument."""
_SECRET_WORDS = ("TOKEN", "KEY", "SECRET", "PASSWORD", "CREDENTIAL")
JOB_CONFIG = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""What Ray tells the driver of a submitted job about itself."""


class Secrets:
    """Values of variables that may be secret. Shown by their names only."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = dict(values)

    def install(self) -> None:
        """Puts them in this process's environment, where libraries look for them; what is there already stays."""
        for name, value in self._values.items():
            os.environ.setdefault(name, value)

    def __repr__(self) -> str:
        return f"Secrets({', '.join(self._values)})"


@dataclass(frozen=True, kw_only=True)
class Settings:
    storage: Storage
    store_url: URL
    """The store's URL; what is shown of it leaves out the password."""
    tracking_uri: str = field(repr=False)
    data: Path | None
    """The folder where relative inputs are looked up; None in a job that was not told, which refuses them."""
    variables: Mapping[str, str] = field(default_factory=dict)
    """The variables of `PASSED_ON` that are set; nothing secret."""
    secrets: Secrets = field(default_factory=lambda: Secrets({}))

    @classmethod
    def at(cls, folder: Path | str) -> Self:
        """Everything below one folder, whatever the environment says. The folder is created.

        Raises:
            ConfigError: it cannot be.
        """
        storage = _storage(str(folder))
        return cls(
            storage=storage,
            store_url=_own_store(storage),
            tracking_uri=_own_tracking(storage),
            data=Path.cwd(),
        )

    def located(self, config: T) -> T:
        """A run's config whose inputs hold from any folder of any process.

        Raises:
            ConfigError: names each relative input of a job that was given no folder to look them up in.
        """
        problems: list[str] = []
        found = _located(config, self.data, "", problems)
        if problems:
            raise ConfigError("\n".join(problems))
        return found

    def job_variables(self) -> dict[str, str]:
        """What a submitted job's runtime environment must hold so that it works with these settings.

        Raises:
            ConfigError: a URL holds a password, which a runtime environment would show to all.
        """
        for name, password, way_out in (
            (STORE_URL, self.store_url.password, "leave it out and name a password file in PGPASSFILE"),
            (TRACKING_URI, urlsplit(self.tracking_uri).password, "leave it out and put it in ~/.mlflow/credentials"),
        ):  # fmt: skip
            if password:
                raise ConfigError(
                    f"{name}: holds a password, which a job's runtime environment would show to all; {way_out}"
                )
        own_store, own_tracking = _own_store(self.storage), _own_tracking(self.storage)
        return {
            **self.variables,
            STORAGE: str(self.storage.root),
            # Empty is unset: the default in the storage, whatever the node's own environment says.
            STORE_URL: "" if self.store_url == own_store else full(self.store_url),
            TRACKING_URI: "" if self.tracking_uri == own_tracking else self.tracking_uri,
            **({} if self.data is None else {DATA: str(self.data)}),
        }


def read_settings(
    storage: str | Path | None = None,
    *,
    environment: Mapping[str, str] | None = None,
    secrets: Collection[str] = (),
) -> Settings:
    """The settings of the environment; the storage's folder is created.

    Args:
        storage: takes the place of SAFEMIRAGE_STORAGE.
        environment: default is this process's.
        secrets: names of further variables that may be secret (of a judge's API key).

    Raises:
        ConfigError: a value cannot be used.
    """
    values = os.environ if environment is None else environment
    folder = _storage(str(storage or values.get(STORAGE) or Path.home() / ".safemirage"))
    url = values.get(STORE_URL)
    return Settings(
        storage=folder,
        store_url=store_url(url) if url else _own_store(folder),
        tracking_uri=_tracking(values.get(TRACKING_URI)) or _own_tracking(folder),
        data=_data(values),
        variables={name: value for name, value in sorted(values.items()) if _is_passed_on(name)},
        secrets=Secrets({name: values[name] for name in (*SECRETS, *secrets) if values.get(name)}),
    )


def submitted_environment(values: Mapping[str, str]) -> dict[str, Any]:
    """The runtime environment that a job was submitted with, as Ray tells its driver; empty outside of a job."""
    job = json.loads(values.get(JOB_CONFIG) or "{}")
    return job.get("runtime_env") or {}


def api_key_names(config: Any) -> set[str]:
    """The variables that hold the keys, and the secret headers, of the endpoints that a config names."""
    endpoints = [node for _, node in nodes(config) if isinstance(node, OpenAIConfig)]
    return {name for node in endpoints for name in (node.api_key_env, *node.headers_env.values())}


def load_located(
    cls: type[T], path: Path | str, overrides: Collection[str], settings: Settings
) -> T:
    """A run file whose inputs are looked up as the settings say: see `load_config` and `Settings.located`."""
    return settings.located(load_config(cls, path, tuple(overrides)))


def _storage(place: str) -> Storage:
    if "://" in place:
        raise ConfigError(
            f"{STORAGE}: {place!r} is a URI; only a folder that every node mounts works so far"
        )
    folder = Path(place).expanduser().absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{STORAGE}: {folder} cannot be created: {error.strerror}") from error
    return Storage(folder)


def _own_store(storage: Storage) -> URL:
    return sqlite_url(storage.root / "store.db")


def _own_tracking(storage: Storage) -> str:
    return full(sqlite_url(storage.root / "mlflow.db"))


def _tracking(uri: str | None) -> str | None:
    """The URI; a SQLite file by its absolute path, because processes elsewhere work in other folders."""
    if uri is None or not uri.startswith("sqlite"):
        return uri
    return full(store_url(uri))


def _data(values: Mapping[str, str]) -> Path | None:
    if place := values.get(DATA):
        folder = Path(place).expanduser()
        if not folder.is_absolute():
            raise ConfigError(f"{DATA}: {place!r} is relative; give the whole path of a folder")
        return folder
    return None if submitted_environment(values).get("working_dir") else Path.cwd()


def _is_passed_on(name: str) -> bool:
    if any(word in name for word in _SECRET_WORDS):
        return False
    return name in PASSED_ON or name.startswith(PASSED_ON_PREFIXES)


def _located(value: Any, data: Path | None, where: str, problems: list[str]) -> Any:
    if isinstance(value, tuple):
        return tuple(
            _located(item, data, f"{where}{index}.", problems) for index, item in enumerate(value)
        )
    if isinstance(value, Mapping):
        return {
            key: _located(item, data, f"{where}{key}.", problems) for key, item in value.items()
        }
    if not is_dataclass(value) or isinstance(value, type):
        return value
    changes: dict[str, Any] = {}
    for item in fields(value):
        now = getattr(value, item.name)
        kind = item.metadata.get("input")
        if kind and now is not None:
            changes[item.name] = _located_path(now, kind, data, f"{where}{item.name}", problems)
        else:
            changes[item.name] = _located(now, data, f"{where}{item.name}.", problems)
    return replace(value, **changes)


def _located_path(path: str, kind: str, data: Path | None, key: str, problems: list[str]) -> str:
    if is_miniature(path) or path == SNAPSHOT:
        return path
    place = Path(path).expanduser()
    if place.is_absolute():
        return str(place)
    may_be_hub = kind == "weights" and not is_local(path)
    if data is None:
        if not may_be_hub:
            problems.append(
                f"{key}: {path!r} is relative, and a job runs in a copy of its code that is deleted; set {DATA} for the "
                "job to the folder that holds it (safemirage job-env does), or give the whole path"
            )
        return path
    found = data / place
    return path if may_be_hub and not found.exists() else str(found)
