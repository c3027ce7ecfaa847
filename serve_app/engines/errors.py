"""What becomes of a call to another process of Ray's: whether it was lost, and what was raised there.

The one place that says in which ways a process, a node or an object of Ray's is lost: in all but these few.
"""

from ray import exceptions
from ray.exceptions import RayActorError, RayError, RayTaskError

from safemirage.evaluation.generators import GenerationError

FAULTS = (
    exceptions.ActorAlreadyExistsError,
    exceptions.ActorHandleNotFoundError,
    exceptions.ActorUnschedulableError,
    exceptions.AuthenticationError,
    exceptions.CrossLanguageError,
    exceptions.ObjectRefStreamEndOfStreamError,
    exceptions.OufOfBandObjectRefSerializationException,
    exceptions.PendingCallsLimitExceeded,
    exceptions.RuntimeEnvSetupError,
    exceptions.TaskUnschedulableError,
    exceptions.UnserializableException,
    # These two carry what the code there raised.
    exceptions.RayTaskError,
    exceptions.UserCodeException,
)
"""What would fail again if it was asked again. Any other error of Ray's, also one of a later version, is the machine's:
to try a fault a few times in vain costs seconds, to take a lost node for a result spoils the result."""


def is_lost(error: BaseException) -> bool:
    """Whether a call failed because the machine took the other side away; asked again, it may well succeed."""
    if isinstance(error, RayActorError) and error.actor_init_failed:
        return False  # its constructor raised
    return isinstance(error, RayError) and not isinstance(error, FAULTS)


def raised_there(error: RayTaskError) -> Exception:
    """Our own error inside one of Ray's; any other of Ray's as it is.

    Ray's is of our error's kind too, but its text is the traceback of the other process, with addresses and paths:
    nothing for a table, nor for a caller over HTTP.
    """
    return error.cause if isinstance(error.cause, GenerationError) else error
