"""What becomes of a call to another process: each of Ray's own errors in its place, and what was raised there.

The one list of the ways in which a process, a node or an object of Ray's is lost; a test holds it against Ray's.
"""

from typing import Literal

from ray import exceptions
from ray.exceptions import RayActorError, RayError, RayTaskError

from safemirage.evaluation.generators import GenerationError

Place = Literal["lost", "fault", "carried"]
"""lost: the machine took it away, and it can be had again. fault: asked in a way that will fail again. carried: what
counts is the error inside."""

PLACES: dict[type[RayError], Place] = {
    exceptions.RayError: "lost",
    # A process or a node is gone, or cannot be reached.
    exceptions.ActorDiedError: "lost",
    exceptions.ActorUnavailableError: "lost",
    exceptions.AsyncioActorExit: "lost",
    exceptions.LocalRayletDiedError: "lost",
    exceptions.NodeDiedError: "lost",
    exceptions.RayActorError: "lost",
    exceptions.RaySystemError: "lost",
    exceptions.RpcError: "lost",
    exceptions.TaskCancelledError: "lost",
    exceptions.WorkerCrashedError: "lost",
    # It ran out of something that others use too.
    exceptions.ObjectStoreFullError: "lost",
    exceptions.OutOfDiskError: "lost",
    exceptions.OutOfMemoryError: "lost",
    # What it had made, or held, is gone.
    exceptions.ActorPlacementGroupRemoved: "lost",
    exceptions.ObjectFetchTimedOutError: "lost",
    exceptions.ObjectFreedError: "lost",
    exceptions.ObjectLostError: "lost",
    exceptions.ObjectReconstructionFailedError: "lost",
    exceptions.OwnerDiedError: "lost",
    exceptions.PlasmaObjectNotAvailable: "lost",
    exceptions.ReferenceCountingAssertionError: "lost",
    exceptions.StreamingGeneratorReplayInconsistentError: "lost",
    exceptions.TaskPlacementGroupRemoved: "lost",
    # It did not answer in time.
    exceptions.GetTimeoutError: "lost",
    exceptions.RayCgraphCapacityExceeded: "lost",
    exceptions.RayChannelError: "lost",
    exceptions.RayChannelTimeoutError: "lost",
    exceptions.RayDirectTransportError: "lost",
    # Asked again it would fail again.
    exceptions.ActorAlreadyExistsError: "fault",
    exceptions.ActorHandleNotFoundError: "fault",
    exceptions.ActorUnschedulableError: "fault",
    exceptions.AuthenticationError: "fault",
    exceptions.CrossLanguageError: "fault",
    exceptions.ObjectRefStreamEndOfStreamError: "fault",
    exceptions.OufOfBandObjectRefSerializationException: "fault",
    exceptions.PendingCallsLimitExceeded: "fault",
    exceptions.RuntimeEnvSetupError: "fault",
    exceptions.TaskUnschedulableError: "fault",
    exceptions.UnserializableException: "fault",
    # Says what the code there raised.
    exceptions.RayTaskError: "carried",
    exceptions.UserCodeException: "carried",
}


def place_of(error: RayError) -> Place:
    """The place of the nearest class that is listed: a class that a later Ray derives from one has its place."""
    if isinstance(error, RayTaskError):  # which is of the kind of what it carries, too
        return "carried"
    if isinstance(error, RayActorError) and error.actor_init_failed:
        return "fault"  # its constructor raised
    return next(PLACES[kind] for kind in type(error).__mro__ if kind in PLACES)


def is_lost(error: BaseException) -> bool:
    """Whether a call failed because the machine took the other side away; asked again, it may well succeed."""
    return isinstance(error, RayError) and place_of(error) == "lost"


def raised_there(error: RayTaskError) -> Exception:
    """Our own error inside one of Ray's; any other of Ray's as it is.

    Ray's is of our error's kind too, but its text is the traceback of the other process, with addresses and paths:
    nothing for a table, nor for a caller over HTTP.
    """
    return error.cause if isinstance(error.cause, GenerationError) else error
