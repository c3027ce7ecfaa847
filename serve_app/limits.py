"""What keeps one caller from taking all of the service: a cap on bodies, a bounded queue, a time limit."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from safemirage.config.serve import LimitsConfig
from serve_app.errors import ApiError


class BodyLimit:
    """ASGI middleware: refuses a body that is too large, by its announced length or as soon as it is seen."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self.app = app
        self.max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        announced = Headers(scope=scope).get("content-length", "0")
        if announced.isdecimal() and self._is_over(announced):
            await ApiError(413, self._message, param="body").response()(scope, receive, send)
            return
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self.max_bytes:
                raise HTTPException(413, self._message)  # the one kind that FastAPI lets through
            return message

        await self.app(scope, counted, send)

    def _is_over(self, announced: str) -> bool:
        digits = announced.lstrip("0")
        most = str(self.max_bytes)
        # By length first: Python reads no number of more than 4,300 digits.
        return len(digits) > len(most) or (len(digits) == len(most) and digits > most)

    @property
    def _message(self) -> str:
        return f"the body is over the limit of {self.max_bytes} bytes"


class Admission:
    """Counts the requests that are worked on; one more than the limit is turned away at once, not kept waiting."""

    def __init__(self, limits: LimitsConfig) -> None:
        self.limits = limits
        self.waiting = 0

    def check(self) -> None:
        """Raises ApiError (429) when all places are taken."""
        if self.waiting >= self.limits.waiting:
            raise ApiError(
                429,
                f"{self.waiting} requests are waiting already; try again in {self.limits.retry_after_s} s",
                code="queue_full",
                headers={"Retry-After": str(self.limits.retry_after_s)},
            )

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
