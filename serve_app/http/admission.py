"""The bounded queue: how much work the service holds at a time, counted in tokens, and how soon there is room again."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import asynccontextmanager, contextmanager
from math import ceil
from typing import TypeVar

from fastapi import Request

from safemirage.config.serve import LimitsConfig
from serve_app.http.auth import caller_of
from serve_app.http.errors import ApiError, ClientGone

T = TypeVar("T")
_MEMORY_S = 30.0
"""Over how long the speed of work is averaged."""
_LONGEST_WAIT_S = 600


class Admission:
    """Holds what is worked on; what would be more than the limits is turned away at once, not kept waiting.

    One caller holds at most a share of the queue, so that there is room for others whatever that one sends.
    """

    def __init__(self, limits: LimitsConfig) -> None:
        self.limits = limits
        self.requests = 0
        self.tokens = 0
        self._of: dict[str, tuple[int, int]] = {}
        """Requests and tokens of each caller."""
        self._speed = _Speed()

    def check(self, caller: str, tokens: int = 0) -> None:
        """Looks for room. Raises ApiError (429) with the time after which there should be some."""
        limits = self.limits
        requests, held = self._of.get(caller, (0, 0))
        if self.requests >= limits.waiting:
            raise self._busy(f"{self.requests} requests are worked on or wait", tokens)
        # Whoever holds nothing may send one request of any size that the limits of a request allow.
        if self.tokens and self.tokens + tokens > limits.waiting_tokens:
            raise self._busy(f"{self.tokens} tokens of work wait", tokens)
        if requests and (
            requests >= max(1, limits.share * limits.waiting)
            or held + tokens > limits.share * limits.waiting_tokens
        ):
            raise self._busy(f"this token has {requests} requests in the queue", tokens)

    @contextmanager
    def place(self, caller: str, tokens: int = 0) -> Iterator[None]:
        """Holds room for a request. Raises ApiError (429) where there is none."""
        self.check(caller, tokens)
        self._count(caller, 1, tokens)
        try:
            yield
        finally:
            self._count(caller, -1, -tokens)
            self._speed.done(tokens)

    @asynccontextmanager
    async def admit(self, caller: str, tokens: int = 0) -> AsyncIterator[None]:
        """Holds room under the time limit of a request. Raises ApiError (429) or TimeoutError."""
        with self.place(caller, tokens):
            async with asyncio.timeout(self.limits.request_timeout_s):
                yield

    def _count(self, caller: str, requests: int, tokens: int) -> None:
        self.requests += requests
        self.tokens += tokens
        before = self._of.pop(caller, (0, 0))
        if (now := before[0] + requests) > 0:
            self._of[caller] = now, before[1] + tokens

    def _busy(self, why: str, tokens: int) -> ApiError:
        """The wait is what the work ahead takes at the speed of the last half minute."""
        ahead = max(self.tokens + tokens - self.limits.waiting_tokens, self.tokens / 2, 1)
        speed = self._speed.per_s
        wait_s = ceil(ahead / speed) if speed else self.limits.retry_after_s
        return busy(why, min(max(wait_s, self.limits.retry_after_s), _LONGEST_WAIT_S))


class _Speed:
    """Tokens of work done a second, as an average that forgets."""

    def __init__(self) -> None:
        self._sum = 0.0
        self._since = self._last = time.monotonic()

    def done(self, tokens: int) -> None:
        now = time.monotonic()
        self._sum = self._sum * 2 ** (-(now - self._last) / _MEMORY_S) + tokens
        self._last = now

    @property
    def per_s(self) -> float:
        """0 while nothing is known."""
        span = min(time.monotonic() - self._since, _MEMORY_S)
        return self._sum / span if span > 0 else 0.0


async def unless_gone(http: Request, work: Awaitable[T]) -> T:
    """What the work gives; it is cancelled when the client goes away."""
    task = asyncio.ensure_future(work)
    watch = asyncio.ensure_future(_gone(http))
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGone
        return task.result()
    finally:
        watch.cancel()
        if not task.done():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def _gone(http: Request) -> None:
    while (await http.receive())["type"] != "http.disconnect":
        pass


def holder(http: Request) -> str:
    """Whose share of the queue a request takes."""
    return caller_of(http).name


def busy(why: str, retry_after_s: int) -> ApiError:
    return ApiError(
        429,
        f"{why}; try again in {retry_after_s} s",
        code="queue_full",
        headers={"Retry-After": str(retry_after_s)},
    )
