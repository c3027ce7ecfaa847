"""The folders of a storage: runs, exports, suites, worlds, cache."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Storage:
    root: Path
    """The root folder, absolute; every node mounts it."""

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
        """The folder of miniature worlds, each named by its content."""
        return self.root / "worlds"

    @property
    def cache(self) -> Path:
        """Results that can be computed again, by content (reference log-probabilities)."""
        return self.root / "cache"

    @property
    def tokens(self) -> Path:
        """The digests of the service's bearer tokens."""
        return self.root / "tokens.json"

    @property
    def files(self) -> Path:
        """What callers of the service uploaded, and the results of their batches."""
        return self.root / "files"

    @property
    def audit(self) -> Path:
        """The service's audit log, a JSON object a line."""
        return self.root / "audit.jsonl"
