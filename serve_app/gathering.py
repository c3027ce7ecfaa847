"""Single questions that come close together are answered in one pass of the model."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from safemirage.config.evaluate import DecodingConfig
from safemirage.evaluation.asking import ask_each
from safemirage.evaluation.cases import Generation, Request
from safemirage.evaluation.generators import Generator, RequestRejected


@dataclass
class _Group:
    requests: list[Request] = field(default_factory=list)
    answers: "asyncio.Task[list[Generation | RequestRejected]] | None" = None


class Gatherer:
    """Joins questions with the same decoding. While one pass runs, the next fills, so a busy model gets full passes.

    Greedy answers in float32 do not depend on what else is in a pass; a question that is rejected costs only itself.
    """

    def __init__(self, generator: Generator, *, batch: int, wait_s: float) -> None:
        self._generator = generator
        self._batch = batch
        self._wait_s = wait_s
        self._filling: dict[DecodingConfig, _Group] = {}
        self._turn = asyncio.Lock()

    async def generate(
        self, requests: Sequence[Request], decoding: DecodingConfig
    ) -> list[Generation]:
        """Answers in order. A list of several is a pass of its own.

        Raises:
            RequestRejected, GeneratorUnavailable: see Generator.
        """
        if len(requests) == 1:
            return [await self._answer(requests[0], decoding)]
        return await self._generator.generate(requests, decoding)

    async def _answer(self, request: Request, decoding: DecodingConfig) -> Generation:
        group = self._filling.get(decoding)
        if group is None or len(group.requests) >= self._batch:
            group = self._filling[decoding] = _Group()
            group.answers = asyncio.create_task(self._pass(group, decoding))
        place = len(group.requests)
        group.requests.append(request)
        assert group.answers is not None
        # Shielded: one caller that goes away must not take the others' answers with it.
        answer = (await asyncio.shield(group.answers))[place]
        if isinstance(answer, RequestRejected):
            raise answer
        return answer

    async def _pass(
        self, group: _Group, decoding: DecodingConfig
    ) -> list[Generation | RequestRejected]:
        await asyncio.sleep(self._wait_s)
        async with self._turn:
            if self._filling.get(decoding) is group:
                del self._filling[decoding]
            return await ask_each(self._generator, group.requests, decoding)
