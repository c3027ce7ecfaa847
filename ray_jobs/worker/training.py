"""What runs in the workers of a training run, and what they have of the driver's environment."""

import os
import sys
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import ray.train

from ray_jobs.cluster.capacity import worker_resources
from ray_jobs.cluster.failures import failure_of
from ray_jobs.worker.journal import append_line
from safemirage.config.loading.load import ConfigError, to_tree
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
    file = Path(settings["reports"])
    try:
        return {"summary": to_tree(train(job, report=partial(report, file=file)))}
    except _TOGETHER as error:
        return {"failure": asdict(failure_of(error))}


def report(report: Report, *, file: Path) -> None:
    """Adds a line to the run's file, for the driver to follow, and tells Ray that this worker is so far: a barrier among
    the workers.

    Ray logs whatever it is given in full, on every rank, so it gets the step alone. Checkpoints stay what the loop made
    them: Ray's own list of them is a file that a kill in mid-write, or a full disk, leaves empty, and with an empty list
    a run can neither resume nor start anew.
    """
    if ray.train.get_context().get_world_rank() == 0:
        append_line(file, report.tree())
    step = int(report.steps[-1]["step"]) if report.steps else 0
    ray.train.report({"step": step, "pid": os.getpid()})


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
