"""Whose fault an error is, told from the errors that Ray, Ray Train, PyTorch and the databases raise."""

import inspect
import pickle
from types import ModuleType

import httpx
import pytest
import ray.train
import requests
import sqlalchemy.exc
import torch
from mlflow.exceptions import MlflowException, RestException
from ray import exceptions
from ray.exceptions import ActorDiedError, RayTaskError, WorkerCrashedError
from ray.train.v2._internal import exceptions as inside_train
from ray.train.v2._internal.exceptions import (
    RayTrainError,
    UserExceptionWithTraceback,
    WorkerGroupStartupTimeoutError,
    WorkerHealthCheckFailedError,
)
from ray.train.v2.api import exceptions as api_of_train

from ray_jobs.cluster.failures import THEIRS, Failure, KnownFailure, failure_of, is_busy
from safemirage.config.loading.load import ConfigError
from safemirage.evaluation.generators import GeneratorUnavailable, RequestRejected
from safemirage.training.job import StorageError, TrainingDiverged
from serve_app.engines.errors import is_lost


def classes_of(module: ModuleType, base: type) -> set[type]:
    found = {kind for _, kind in inspect.getmembers(module, inspect.isclass)}
    return {kind for kind in found if issubclass(kind, base)}


@pytest.mark.parametrize("module", [inside_train, api_of_train])
def test_every_exception_of_ray_train_has_its_place(module: ModuleType) -> None:
    names = {f"{kind.__module__}.{kind.__qualname__}" for kind in classes_of(module, RayTrainError)}
    assert names
    assert names <= set(THEIRS)


def task_error(cause: Exception) -> Exception:
    """As `ray.get` raises what a task raised."""
    return RayTaskError("measure", "traceback", cause).as_instanceof_cause()


def group_error(*failures: Exception) -> Exception:
    return ray.train.WorkerGroupError("errors", dict(enumerate(failures)))


def health(failure: Exception) -> Exception:
    return WorkerHealthCheckFailedError("a worker is gone", failure)


PEER_GONE = RuntimeError("[gloo/transport/tcp/pair.cc:537] Read error: Connection reset by peer.")
OOM = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (ActorDiedError(), "machine"),
        (WorkerCrashedError(), "machine"),
        (exceptions.OutOfMemoryError("the node ran low"), "machine"),
        (exceptions.NodeDiedError("gone"), "machine"),
        (task_error(ActorDiedError()), "machine"),
        (task_error(task_error(TrainingDiverged("nan"))), "method"),
        (task_error(ConfigError("model.path: no such folder")), "config"),
        (ActorDiedError(RayTaskError("init", "traceback", ValueError("x"))), "config"),
        (group_error(health(ActorDiedError()), PEER_GONE), "machine"),
        (group_error(PEER_GONE), "machine"),
        (group_error(PEER_GONE, OOM), "method"),
        (group_error(UserExceptionWithTraceback(OOM, "traceback")), "method"),
        (group_error(health(ActorDiedError()), TypeError("a slip of ours")), "machine"),
        (group_error(TypeError("a slip of ours")), "config"),
        (ray.train.ControllerError(WorkerGroupStartupTimeoutError(2)), "machine"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), "method"),
        (torch.distributed.DistBackendError("NCCL error: remote process exited"), "machine"),
        (sqlalchemy.exc.OperationalError("select", {}, Exception("server closed")), "machine"),
        (sqlalchemy.exc.ProgrammingError("select", {}, Exception("no such table")), "config"),
        (requests.exceptions.ConnectionError("refused"), "machine"),
        (httpx.ConnectError("refused"), "machine"),
        (RestException({"error_code": "TEMPORARILY_UNAVAILABLE"}), "machine"),
        (MlflowException.invalid_parameter_value("a name"), "config"),
        (OSError(28, "No space left on device"), "machine"),
        (FileNotFoundError(2, "No such file"), "config"),
        (StorageError("checkpoints: no room"), "machine"),
        (GeneratorUnavailable("no answer"), "machine"),
        (RequestRejected("too long"), "config"),
        (KeyError("asr"), "config"),
    ],
)  # fmt: skip
def test_failure_is_the_machines_the_configs_or_the_methods(error: Exception, cause: str) -> None:
    assert failure_of(error).cause == cause


def test_failure_names_the_error_that_counts() -> None:
    error = group_error(PEER_GONE, OOM)
    assert failure_of(error).reason.startswith("OutOfMemoryError: CUDA out of memory")


def test_known_failure_keeps_what_it_knows_between_processes() -> None:
    error = KnownFailure(Failure("method", "TrainingDiverged: nan"), of="npo-12ab")
    again = pickle.loads(pickle.dumps(error))
    assert failure_of(task_error(again)) == error.failure
    assert str(again) == "npo-12ab: TrainingDiverged: nan"


def test_group_that_could_not_start_yet_is_busy_and_a_lost_one_is_not() -> None:
    assert is_busy(ray.train.ControllerError(WorkerGroupStartupTimeoutError(2)))
    assert not is_busy(group_error(health(ActorDiedError())))


def test_only_what_the_machine_took_away_is_lost() -> None:
    assert is_lost(exceptions.OutOfMemoryError("the node ran low"))
    assert not is_lost(task_error(ActorDiedError()))
    assert not is_lost(ValueError("x"))
