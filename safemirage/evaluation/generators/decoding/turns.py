"""Calls of a model in this process take turns in one thread, so the event loop stays free."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from safemirage.config.generators import DecodingConfig
from safemirage.evaluation.generators import RequestRejected
from safemirage.evaluation.types import Generation, Request
from safemirage.models.images import ImageError
from safemirage.models.prompts import PromptError

Generate = Callable[[list[Request], DecodingConfig], list[Generation]]


class Turns:
    """A thread in which one engine works, where callers wait for their turn."""

    def __init__(self, name: str) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)

    async def take(
        self, generate: Generate, requests: Sequence[Request], decoding: DecodingConfig
    ) -> list[Generation]:
        """What `generate` gives, in its turn.

        Raises:
            RequestRejected: it raised PromptError or ImageError: one of the requests makes no prompt that the model can take.
        """
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._thread, generate, list(requests), decoding)
        except (PromptError, ImageError) as error:
            raise RequestRejected(str(error)) from error

    def close(self) -> None:
        """Waits for the running call and ends the thread; calls that wait are cancelled."""
        self._thread.shutdown(cancel_futures=True)
