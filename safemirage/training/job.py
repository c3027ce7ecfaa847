"""What a training run is given and what it says: plain records, without torch, for processes that only pass them on."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from safemirage.config.train import TrainConfig

StepMetrics = dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Report:
    """What the loop says now and then. All workers report alike, so taking a report may be a barrier."""

    steps: Sequence[StepMetrics]
    """Metrics of the steps since the last report, oldest first; `step` counts from 1."""
    total_steps: int
    checkpoint: Path | None
    """A folder with this worker's part of a checkpoint; it is removed when the report was taken."""


class TrainingDiverged(RuntimeError):
    """A loss became infinite or NaN."""


@dataclass(frozen=True, kw_only=True)
class TrainJob:
    """A config, and where its run reads and writes."""

    config: TrainConfig
    run_id: str
    identity: str
    export: Path
    """Folder that the finished model goes to."""
    cache: Path
    """Folder of results that other runs can use too."""
    resume_from: Path | None = None
    """A checkpoint that an earlier attempt reported."""
    report_every_s: float = 0.0
    """Metrics are gathered for this long before they are reported; a checkpoint goes out at once."""
