"""The bounded queue: how many requests are worked on at a time, and for how long."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from safemirage.config.serve import LimitsConfig
from serve_app.http.errors import ApiError


class Admission:
    """Counts the requests that are worked on; one more than the limit is turned away at once, not kept waiting."""

    def __init__(self, limits: LimitsConfig) -> None:
        self.limits = limits
        self.waiting = 0

    def check(self) -> None:
        """Looks for a free place. Raises ApiError (429) when all are taken."""
        if self.waiting >= self.limits.waiting:
            raise busy(f"{self.waiting} requests are waiting already", self.limits)

    @contextmanager
    def place(self) -> Iterator[None]:
        """Holds a place. Raises ApiError (429) when all are taken."""
        self.check()
        self.waiting += 1
        try:
            yield
        finally:
            self.waiting -= 1

    @asynccontextmanager
    async def admit(self) -> AsyncIterator[None]:
        """Holds a place, under the time limit of a request. Raises ApiError (429) or TimeoutError."""
        with self.place():
            async with asyncio.timeout(self.limits.request_timeout_s):
                yield


def busy(why: str, limits: LimitsConfig) -> ApiError:
    return ApiError(
        429,
        f"{why}; try again in {limits.retry_after_s} s",
        code="queue_full",
        headers={"Retry-After": str(limits.retry_after_s)},
    )
