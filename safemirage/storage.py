"""Where runs, exports, suites and databases lie: one root, from the environment, always absolute.

SAFEMIRAGE_STORAGE      folder or URI (default ~/.safemirage)
SAFEMIRAGE_STORE_URL    database of runs, samples and evaluations (default: SQLite in the root)
MLFLOW_TRACKING_URI     tracking server (default: SQLite in the root)
"""

import os
from dataclasses import dataclass
from pathlib import Path

from safemirage.config.load import ConfigError


@dataclass(frozen=True)
class Storage:
    root: Path

    @property
    def runs(self) -> Path:
        """Resumable shards and logs, one folder a run; read by the run itself only."""
        return self.root / "runs"

    @property
    def exports(self) -> Path:
        """Finished models, one folder a run, each with its manifest.json."""
        return self.root / "exports"

    @property
    def suites(self) -> Path:
        """Evaluation suites, one folder each: suite.json and its images."""
        return self.root / "suites"

    @property
    def worlds(self) -> Path:
        """Miniature worlds, by content."""
        return self.root / "worlds"

    @property
    def cache(self) -> Path:
        """Results that can be computed again, by content (reference log-probabilities)."""
        return self.root / "cache"

    @property
    def store_url(self) -> str:
        return os.environ.get("SAFEMIRAGE_STORE_URL") or f"sqlite:///{self.root / 'store.db'}"

    @property
    def mlflow_uri(self) -> str:
        return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{self.root / 'mlflow.db'}"


def open_storage(root: str | Path | None = None) -> Storage:
    """The storage at `root`, else where SAFEMIRAGE_STORAGE says; the folder is created.

    Raises:
        ConfigError: the root is a URI, or cannot be created.
    """
    place = str(root or os.environ.get("SAFEMIRAGE_STORAGE") or Path.home() / ".safemirage")
    if "://" in place:
        raise ConfigError(
            f"SAFEMIRAGE_STORAGE: {place!r} is a URI; only a folder that every node mounts works so far"
        )
    folder = Path(place).expanduser().absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"SAFEMIRAGE_STORAGE: {folder} cannot be created: {error.strerror}"
        ) from error
    return Storage(folder)
