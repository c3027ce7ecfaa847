"""Causes of failures, told apart in this one place.

machine   A process, a node or a connection was lost, or a disk was full. It is tried again, and is never a result.
config    The input, the config or the program is at fault. It ends at once, with what is wrong.
method    Training diverged, the model collapsed, or it does not fit the device at this setting. It is a result, and
          asked again it would come to the same.
"""

import errno
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from safemirage.config.loading.load import ConfigError
from safemirage.data.records import DataError
from safemirage.evaluation.generators import GenerationError, GeneratorUnavailable
from safemirage.models.families import UnknownFamilyError
from safemirage.models.manifest import ExportError
from safemirage.store.execution import RunFailed
from safemirage.store.leases import LeaseLost
from safemirage.tracking import is_server_fault
from safemirage.training.job import (
    CheckpointError,
    FirstWorkerFailed,
    SampleError,
    StorageError,
    TrainingCollapsed,
    TrainingDiverged,
)

Cause = Literal["machine", "config", "method"]
_ORDER: tuple[Cause, ...] = ("method", "config", "machine")
"""Which of the errors of several workers counts: one that names its reason before those of who only lost their peers."""

_OURS: dict[type[BaseException], Cause] = {
    TrainingDiverged: "method",
    TrainingCollapsed: "method",
    ConfigError: "config",
    DataError: "config",
    SampleError: "config",
    UnknownFamilyError: "config",
    ExportError: "config",
    CheckpointError: "config",
    GenerationError: "config",
    GeneratorUnavailable: "machine",
    StorageError: "machine",
    FirstWorkerFailed: "machine",
    LeaseLost: "machine",
    RunFailed: "machine",
    ConnectionError: "machine",
    TimeoutError: "machine",
    MemoryError: "machine",
}
# What Train 2.60 raises inside its controller reaches a job too, and has no public name.
_TRAIN = "ray.train.v2._internal.exceptions."
_TRAIN_API = "ray.train."
THEIRS: dict[str, Cause] = {
    f"{_TRAIN}RayTrainError": "machine",
    f"{_TRAIN}WorkerHealthCheckTimeoutError": "machine",
    f"{_TRAIN}WorkerHealthCheckFailedError": "machine",
    f"{_TRAIN}WorkerGroupStartupTimeoutError": "machine",
    f"{_TRAIN}WorkerGroupStartupFailedError": "machine",
    f"{_TRAIN}InsufficientClusterResourcesError": "config",
    f"{_TRAIN}CheckpointManagerInitializationError": "config",
    f"{_TRAIN}CollectiveTimeoutError": "machine",
    f"{_TRAIN}BroadcastCollectiveTimeoutError": "machine",
    f"{_TRAIN}UserExceptionWithTraceback": "config",
    f"{_TRAIN_API}TrainingFailedError": "machine",
    f"{_TRAIN_API}WorkerGroupError": "machine",
    f"{_TRAIN_API}NCCLHangError": "machine",
    f"{_TRAIN_API}ControllerError": "machine",
    f"{_TRAIN_API}PreemptionError": "machine",
    "torch.OutOfMemoryError": "method",
    "torch.AcceleratorError": "machine",
    "torch.distributed.DistError": "machine",
    "sqlalchemy.exc.OperationalError": "machine",
    "sqlalchemy.exc.InterfaceError": "machine",
    "optuna.exceptions.StorageInternalError": "machine",
    "httpx.TransportError": "machine",
    "requests.exceptions.ConnectionError": "machine",
    "requests.exceptions.Timeout": "machine",
}
"""Causes of other packages' errors, by the error's name: who meets such an error has imported its package, and
nobody else needs to."""

_BUSY = f"{_TRAIN}WorkerGroupStartupTimeoutError"
_MACHINE_ERRNO = {errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.ESTALE, errno.EROFS, errno.EHOSTUNREACH, errno.ENETUNREACH}  # fmt: skip
_TEXTS: tuple[tuple[re.Pattern[str], Cause], ...] = (
    (re.compile(r"out of memory|DefaultCPUAllocator|ALLOC_FAILED", re.IGNORECASE), "method"),
    (re.compile(r"gloo.*(connection|closed|reset|timed? ?out)|NCCL|Connection (reset|closed) by peer", re.IGNORECASE | re.DOTALL), "machine"),
)  # fmt: skip
"""What PyTorch says in a plain RuntimeError, which has no class of its own: no memory, and peers that went away."""


@dataclass(frozen=True)
class Failure:
    cause: Cause
    reason: str
    """The error that counts: its type and message."""


class KnownFailure(RuntimeError):
    """An error that says whose fault it is."""

    def __init__(self, failure: Failure, *, of: str) -> None:
        super().__init__(failure, of)
        self.failure = failure
        self.of = of

    def __str__(self) -> str:
        return f"{self.of}: {self.failure.reason}"

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuilt, (type(self), self.failure, self.of)


def _rebuilt(cls: type[KnownFailure], failure: Failure, of: str) -> KnownFailure:
    return cls(failure, of=of)


def failure_of(error: BaseException) -> Failure:
    """The failure behind an error, however many processes it came through. An error of no known kind is a fault of the
    program: it counts as `config`, which ends at once with its name."""
    if isinstance(error, KnownFailure):
        return error.failure
    found: dict[Cause, BaseException] = {}
    unknown = None
    for inner in _leaves(error):
        if isinstance(inner, KnownFailure):
            return inner.failure
        if cause := _cause(inner):
            found.setdefault(cause, inner)
        else:
            unknown = unknown or inner
    for cause in _ORDER:
        if cause in found:
            return Failure(cause, reason_of(found[cause]))
    return Failure("config", reason_of(unknown or error))


def is_busy(error: BaseException) -> bool:
    """Whether a worker group did not start only because others hold what it needs: not yet, rather than not."""
    return any(_name(type(inner)) == _BUSY for inner in _leaves(error))


def reason_of(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def _leaves(error: BaseException) -> Iterator[BaseException]:
    """The errors that an error of Ray's carries from other processes; itself where it carries none."""
    inner = [item for item in _carried(error) if item is not error]
    if not inner:
        yield error
    for item in inner:
        yield from _leaves(item)


def _carried(error: BaseException) -> list[BaseException]:
    if _is_rays(error):
        from ray.exceptions import (
            RayTaskError,
        )  # on use: a config that is wrong is said without Ray

        inner = error.cause if isinstance(error, RayTaskError) else None
        return [inner] if isinstance(inner, BaseException) else []
    if type(error).__module__.split(".")[:2] != ["ray", "train"]:
        return []
    from ray.train import ControllerError, WorkerGroupError
    from ray.train.v2._internal.exceptions import (
        UserExceptionWithTraceback,
        WorkerHealthCheckFailedError,
    )

    match error:
        case WorkerGroupError():
            return list(error.worker_failures.values())
        case ControllerError():
            return [error.controller_failure]
        case WorkerHealthCheckFailedError():
            return [error.health_check_failure]
        case UserExceptionWithTraceback():
            return [error._base_exc]
    return []


def _cause(error: BaseException) -> Cause | None:
    if _is_rays(error):
        from serve_app.engines.errors import is_lost

        return "machine" if is_lost(error) else "config"
    for kind in type(error).__mro__:
        if found := _OURS.get(kind) or THEIRS.get(_name(kind)):
            return found
    if isinstance(error, OSError) and error.errno in _MACHINE_ERRNO:
        return "machine"
    if type(error).__module__ == "mlflow.exceptions":
        return "machine" if is_server_fault(error) else "config"
    if isinstance(error, RuntimeError):
        return next((cause for text, cause in _TEXTS if text.search(str(error))), None)
    return None


def _is_rays(error: BaseException) -> bool:
    return any(kind.__module__ == "ray.exceptions" for kind in type(error).__mro__)


def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"
