"""Asking a generator for many answers, so that one bad question costs only itself."""

import asyncio
from collections.abc import Sequence
from dataclasses import asdict

from safemirage.config.generators import DecodingConfig
from safemirage.evaluation.cache_keys import generation_key, scoped_key
from safemirage.evaluation.generators import Generator, RequestRejected
from safemirage.evaluation.types import Generation, Request
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
