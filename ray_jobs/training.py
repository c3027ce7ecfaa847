"""What runs where in a training run: the workers' function, and the callback in Ray Train's controller."""

import logging
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ray.train
from ray.train import Checkpoint, UserCallback

from ray_jobs.capacity import worker_resources
from ray_jobs.failures import failure_of
from ray_jobs.journal import append_line
from safemirage.config.load import ConfigError, to_tree
from safemirage.config.train import TrainConfig
from safemirage.data.records import DataError
from safemirage.models.families import UnknownFamilyError
from safemirage.models.manifest import ExportError
from safemirage.settings import Secrets, Settings
from safemirage.training.job import (
    CheckpointError,
    FirstWorkerFailed,
    Report,
    SampleError,
    StorageError,
    TrainingCollapsed,
    TrainingDiverged,
    TrainJob,
)

_TOGETHER = (
    ConfigError,
    DataError,
    SampleError,
    UnknownFamilyError,
    ExportError,
    TrainingDiverged,
    TrainingCollapsed,
    CheckpointError,
    StorageError,
    FirstWorkerFailed,
)
"""Errors that all workers raise together, `FirstWorkerFailed` beside the first one's. A worker that returned from an error
of its own, such as a device that is full, would leave the others waiting: that one is raised, and ends them all."""


def work(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A Train worker's whole run; {"summary": its tree} or {"failure": a Failure's tree} on every rank."""
    secrets: Secrets = settings["secrets"]
    secrets.install()
    # On use: the controller imports this module too, and needs none of it.
    from safemirage.training.loop import train

    job: TrainJob = settings["job"]
    try:
        return {"summary": to_tree(train(job, report=report))}
    except _TOGETHER as error:
        return {"failure": asdict(failure_of(error))}


def report(report: Report) -> None:
    """Passes a report of the loop on to Ray. A barrier among the workers.

    Checkpoints stay what the loop made them: Ray's own list of them is a file that a kill in mid-write, or a full
    disk, leaves empty, and with an empty list a run can neither go on nor start anew.
    """
    # Ray logs each report in full, on every rank; the run's own line says how far it is.
    logging.getLogger("ray.train").setLevel(logging.WARNING)
    last = report.steps[-1] if report.steps else {}
    values = {
        **last,
        "history": list(report.steps),
        "total_steps": report.total_steps,
        "checkpoint": None if report.checkpoint is None else str(report.checkpoint),
        "snapshot": None if report.snapshot is None else str(report.snapshot),
        "pid": os.getpid(),
    }
    ray.train.report(values)


class ReportWriter(UserCallback):
    """Runs in the controller: appends each report to a file, for the driver to follow.

    The controller imports neither torch nor mlflow, and never waits for a database.
    """

    def __init__(self, file: Path) -> None:
        self._file = file

    def after_report(
        self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Checkpoint | None
    ) -> None:
        first = metrics[0]
        line = {
            "steps": first["history"],
            "total_steps": first["total_steps"],
            "checkpoint": first["checkpoint"],
            "snapshot": first["snapshot"],
        }
        append_line(self._file, line)


def worker_runtime_env(config: TrainConfig, settings: Settings) -> dict[str, Any]:
    """The environment of Train workers: Ray passes on none of the driver's own."""
    threads = max(1, int(worker_resources(config.workers)["CPU"]))
    variables = {
        **settings.variables,
        "OMP_NUM_THREADS": str(threads),
        "TOKENIZERS_PARALLELISM": "false",
        # ninja, which DeepSpeed looks for, lies beside the interpreter.
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    if not config.workers.gpu:
        variables["DS_ACCELERATOR"] = "cpu"
    return {"env_vars": variables}
