"""Asking a generator for many answers, so that one bad question costs only itself, and counting what reaches a model: what
came out of the store does not.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

from safemirage.config.generators import DecodingConfig
from safemirage.evaluation.generators import Generator, RequestRejected
from safemirage.evaluation.types import Generation, Request, generation_key, scoped_key
from safemirage.store.samples import Samples


async def ask_each(
    generator: Generator, requests: Sequence[Request], decoding: DecodingConfig
) -> list[Generation | RequestRejected]:
    """An answer a request, in order, or why that request has none.

    A rejected batch is halved until the bad request stands alone, so b bad requests among n cost about
    2 b log2(n) further calls.

    Raises:
        GeneratorUnavailable: the model cannot be reached.
    """
    if not requests:
        return []
    try:
        answers = await generator.generate(requests, decoding)
    except RequestRejected as error:
        if len(requests) == 1:
            return [error]
        middle = len(requests) // 2
        first = await ask_each(generator, requests[:middle], decoding)
        return first + await ask_each(generator, requests[middle:], decoding)
    assert len(answers) == len(requests), f"{len(answers)} answers to {len(requests)} requests"
    return list(answers)


async def ask_stored(
    generator: Generator,
    requests: Sequence[Request],
    decoding: DecodingConfig,
    *,
    samples: Samples,
    scope: str,
) -> list[Generation | RequestRejected]:
    """Like `ask_each`, but only what the store does not know is asked, and what is answered is kept.

    Args:
        scope: binds the answers of a model that cannot tell its weights.

    Raises:
        GeneratorUnavailable: the model cannot be reached.
    """
    table = samples.generations
    model = scoped_key(generator.key, scope)
    keys = [generation_key(model, request, decoding) for request in requests]
    known = await asyncio.to_thread(table.get, keys)
    missing = {
        key: request for key, request in zip(keys, requests, strict=True) if key not in known
    }
    replies = dict(
        zip(missing, await ask_each(generator, list(missing.values()), decoding), strict=True)
    )
    new = {key: asdict(reply) for key, reply in replies.items() if isinstance(reply, Generation)}
    known |= await asyncio.to_thread(table.put, new)
    return [Generation(**known[key]) if key in known else replies[key] for key in keys]


@dataclass
class ModelCalls:
    """Requests that reached a model in this process."""

    answers: int = 0
    """Questions put to the evaluated model."""
    verdicts: int = 0
    """Answers put to judging models."""

    def counted_answers(self, generator: Generator) -> Generator:
        def count(requests: int) -> None:
            self.answers += requests

        return _Counted(generator, count)

    def counted_verdicts(self, generator: Generator) -> Generator:
        def count(requests: int) -> None:
            self.verdicts += requests

        return _Counted(generator, count)


class _Counted:
    def __init__(self, generator: Generator, count: Callable[[int], None]) -> None:
        self._generator = generator
        self._count = count

    @property
    def key(self) -> Mapping[str, str]:
        return self._generator.key

    async def generate(
        self, requests: Sequence[Request], decoding: DecodingConfig
    ) -> list[Generation]:
        self._count(len(requests))
        return await self._generator.generate(requests, decoding)
