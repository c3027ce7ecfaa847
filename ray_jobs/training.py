"""What runs where in a training run: the workers' function, and the callback in Ray Train's controller."""

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray.train
from ray.train import Checkpoint, UserCallback

from ray_jobs.capacity import worker_resources
from safemirage.config.load import ConfigError
from safemirage.config.train import TrainConfig
from safemirage.data.records import DataError
from safemirage.tracking import MlflowTracker, TrackingPlace
from safemirage.training.batches import SampleError
from safemirage.training.loop import Report, TrainingDiverged, TrainJob, train

REPORT_EVERY_S = 1.0
"""A report waits for the controller, which looks every half second; so steps are gathered."""

_PASSED_ON = (
    "HF_HOME",
    "HF_HUB_CACHE",
    "HF_HUB_OFFLINE",
    "HF_TOKEN",
    "SAFEMIRAGE_GIT_COMMIT",
    "TORCH_EXTENSIONS_DIR",
)
_HOPELESS = (ConfigError, DataError, SampleError, TrainingDiverged)
"""What every worker would run into again, so that a restart is of no use."""


def work(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A Train worker's whole run; {"summary": ...} or {"hopeless": message} on every rank."""
    job: TrainJob = settings["job"]
    try:
        checkpoint = ray.train.get_checkpoint()
        if checkpoint is None:
            return {"summary": train(job, report=report)}
        with checkpoint.as_directory() as folder:
            return {"summary": train(replace(job, resume_from=Path(folder)), report=report)}
    except _HOPELESS as error:
        return {"hopeless": f"{type(error).__name__}: {error}"}


def report(report: Report) -> None:
    """Passes a report of the loop on to Ray. A barrier among the workers."""
    checkpoint = None if report.checkpoint is None else Checkpoint.from_directory(report.checkpoint)
    last = report.steps[-1] if report.steps else {}
    values = {
        **last,
        "history": list(report.steps),
        "total_steps": report.total_steps,
        "pid": os.getpid(),
    }
    ray.train.report(values, checkpoint=checkpoint)


class ProgressCallback(UserCallback):
    """Runs in the controller: writes progress for the driver to read, and the curves to MLflow."""

    def __init__(self, run_id: str, *, progress: Path, tracking: TrackingPlace) -> None:
        self._run_id = run_id
        self._progress = progress
        self._tracking = tracking
        self._tracker: MlflowTracker | None = None
        self._logged = 0

    def after_report(
        self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Checkpoint | None
    ) -> None:
        first = metrics[0]
        if self._tracker is None:
            self._tracker = MlflowTracker(self._tracking)
            self._logged = self._tracker.last_step(self._run_id)
        # After a restart some steps come a second time, with the same values.
        new = [step for step in first["history"] if step["step"] > self._logged]
        if new:
            self._tracker.log_steps(self._run_id, new)
            self._logged = int(new[-1]["step"])
            self._write(
                {"done": self._logged, "total": first["total_steps"], "loss": new[-1]["loss"]}
            )
        if checkpoint is not None:
            self._tracker.set_tags(self._run_id, {"checkpoint_uri": checkpoint.path})

    def _write(self, progress: Mapping[str, float]) -> None:
        unfinished = self._progress.with_suffix(".tmp")
        unfinished.write_text(json.dumps(progress))
        unfinished.replace(self._progress)


def worker_runtime_env(config: TrainConfig) -> dict[str, Any]:
    """The environment of Train workers: Ray passes on none of the driver's own."""
    threads = max(1, int(worker_resources(config.workers)["CPU"]))
    variables = {
        "OMP_NUM_THREADS": str(threads),
        "TOKENIZERS_PARALLELISM": "false",
        # ninja, which DeepSpeed looks for, lies beside the interpreter.
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        **{name: os.environ[name] for name in _PASSED_ON if name in os.environ},
    }
    if not config.workers.gpu:
        variables["DS_ACCELERATOR"] = "cpu"
    return {"env_vars": variables}
