"""Asking a replica that may die meanwhile: what is lost is asked again, what it raised is not."""

from typing import Any, Self

import pytest
from ray.exceptions import ActorDiedError, RayTaskError

from safemirage.config.generators import DecodingConfig
from safemirage.evaluation.generators import RequestRejected
from safemirage.evaluation.types import Generation, Request
from serve_app.engines.checkpoints import called

pytestmark = pytest.mark.anyio
ANSWER = Generation(text="a cup", prompt_tokens=1, completion_tokens=2, finish_reason="stop")


class Handle:
    """Serve's handle of a replica that gives these results one after another; as with Serve's, a call is no coroutine
    function but returns something to wait for."""

    def __init__(self, *results: Any) -> None:
        self._results = list(results)

    def options(self, **_: Any) -> Self:
        return self

    @property
    def generate(self) -> Self:
        return self

    def remote(self, *_: Any) -> Any:
        async def result() -> Any:
            found = self._results.pop(0)
            if isinstance(found, Exception):
                raise found
            return found

        return result()


async def asked(*results: Any) -> list[Generation]:
    handle: Any = Handle(*results)
    request = [Request(question="q")]
    answers: list[Generation] = await called(
        handle, "m@digest", "generate", request, DecodingConfig(), "me"
    )
    return answers


async def test_replica_that_died_is_asked_again() -> None:
    assert await asked(ActorDiedError(), [ANSWER]) == [ANSWER]


async def test_question_that_a_replica_found_wrong_is_not_asked_again() -> None:
    with pytest.raises(RequestRejected, match="too long"):
        await asked(RayTaskError("generate", "traceback", RequestRejected("too long")))
