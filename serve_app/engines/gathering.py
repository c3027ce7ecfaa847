"""Single questions that come close together are answered in one pass of the model."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace

from safemirage.config.generators import DecodingConfig
from safemirage.evaluation.generators import Generator
from safemirage.evaluation.generators.asking import ask_each
from safemirage.evaluation.types import Generation, Request


@dataclass(frozen=True, kw_only=True, eq=False)
class _Asked:
    """A question that waits for its pass."""

    request: Request
    """The request, with a seed of its own when sampling."""
    shared: DecodingConfig
    """What all questions of a pass have in common: neither a seed nor whatever else cannot change the answer."""
    answer: "asyncio.Future[Generation]"
    """Gets the answer; it is done before the pass where the caller went away."""


class Gatherer:
    """Joins questions whose decoding differs in the seed at most. While one pass runs, the next fills, so a busy model
    gets full passes; a question whose caller went away before its pass is not asked.

    Answers in float32 do not depend on what else is in a pass; a question that is rejected costs only itself.
    """

    def __init__(self, generator: Generator, *, batch: int, wait_s: float) -> None:
        self._generator = generator
        self._batch = batch
        self._wait_s = wait_s
        self._waiting: list[_Asked] = []
        self._passes: asyncio.Task[None] | None = None

    async def generate(
        self, requests: Sequence[Request], decoding: DecodingConfig
    ) -> list[Generation]:
        """Answers in order. A list of several is a pass of its own.

        Raises:
            RequestRejected, GeneratorUnavailable: see Generator.
        """
        if len(requests) == 1:
            return [await self._answer(requests[0], decoding)]
        # An evaluation sends whole batches, which gain nothing from waiting for company.
        return await self._generator.generate(requests, decoding)

    async def _answer(self, request: Request, decoding: DecodingConfig) -> Generation:
        own = request.decoded_by(decoding).effective
        asked = _Asked(
            request=replace(request, seed=own.seed),
            # The seed went into the request, so it keeps no two questions apart.
            shared=replace(own, seed=0),
            answer=asyncio.get_running_loop().create_future(),
        )
        self._waiting.append(asked)
        # One task for all passes, so that the model is never asked for two at a time.
        if self._passes is None or self._passes.done():
            self._passes = asyncio.create_task(self._run_passes())
        return await asked.answer

    async def _run_passes(self) -> None:
        # Questions of one moment come within milliseconds; only the first pass waits for them.
        await asyncio.sleep(self._wait_s)
        while batch := self._next_pass():
            await self._run_pass(batch)

    def _next_pass(self) -> list[_Asked]:
        """The question that waits longest, and those that can share its pass; empty when none is left."""
        # A caller that went away has its future cancelled.
        self._waiting = [asked for asked in self._waiting if not asked.answer.done()]
        if not self._waiting:
            return []
        shared = self._waiting[0].shared
        batch = [asked for asked in self._waiting if asked.shared == shared][: self._batch]
        taken = set(map(id, batch))
        self._waiting = [asked for asked in self._waiting if id(asked) not in taken]
        return batch

    async def _run_pass(self, batch: Sequence[_Asked]) -> None:
        answers: Sequence[Generation | Exception]
        try:
            answers = await ask_each(
                self._generator, [asked.request for asked in batch], batch[0].shared
            )
        except Exception as error:  # the callers' to know, whatever it is; later passes continue
            answers = [error] * len(batch)
        for asked, answer in zip(batch, answers, strict=True):
            # The caller went away while its pass ran.
            if asked.answer.done():
                continue
            if isinstance(answer, Generation):
                asked.answer.set_result(answer)
            else:
                asked.answer.set_exception(answer)
