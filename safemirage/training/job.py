"""What a training run is given and what it says: plain records, without torch, for processes that only pass them on."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safemirage.config.train import TrainConfig
from safemirage.config.types import Strict

StepMetrics = dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Report:
    """What the loop says now and then. All workers report alike, so taking a report may be a barrier."""

    steps: Sequence[StepMetrics]
    """Metrics of the steps since the last report, oldest first; `step` counts from 1. The first report of a run that goes
    on from a checkpoint starts at step 1 again: what a kill left unreported is among them."""
    total_steps: int
    checkpoint: Path | None
    """A checkpoint that is whole from now on."""
    snapshot: Path | None = None
    """An export of the model as it is after the last of the steps; whole from now on."""

    def tree(self) -> dict[str, Any]:
        """The report as JSON."""
        places = {"checkpoint": self.checkpoint, "snapshot": self.snapshot}
        shown = {name: None if place is None else str(place) for name, place in places.items()}
        return {"steps": list(self.steps), "total_steps": self.total_steps, **shown}


@dataclass(frozen=True, kw_only=True)
class TrainSummary(Strict):
    """What a finished run says of itself."""

    steps: int
    resumed_from: int
    """Finished steps of the checkpoint that the last attempt took up."""
    export: str
    """Folder of the trained model."""
    metrics: dict[str, float]
    """The metrics of the last step."""


class SampleError(ValueError):
    """Records that cannot be trained on; names each by its id."""


class TrainingDiverged(RuntimeError):
    """A loss became infinite or NaN."""


class TrainingCollapsed(RuntimeError):
    """The model's answers make no sense any more."""


class CheckpointError(RuntimeError):
    """A checkpoint that is damaged, or that another run or another layout of workers made."""


class StorageError(RuntimeError):
    """A folder that cannot be written to, or has not enough room. What lay in it before is untouched."""


class FirstWorkerFailed(RuntimeError):
    """What the other workers raise when the one that works for all has failed."""


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
    checkpoints: Path | None = None
    """Folder, seen by every worker, of the run's checkpoints: the newest is taken up. None: none are kept."""
    snapshots: Path | None = None
    """Folder, seen by every worker, of the snapshots that `config.watch` asks for. None: there are none."""
    report_every_s: float = 0.0
    """Metrics are gathered for this long before they are reported; a checkpoint goes out at once."""
