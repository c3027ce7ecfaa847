"""Asking a generator for many answers, so that one bad question costs only itself."""

from collections.abc import Sequence

from safemirage.config.evaluate import DecodingConfig
from safemirage.evaluation.cases import Generation, Request
from safemirage.evaluation.generators import Generator, RequestRejected


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
