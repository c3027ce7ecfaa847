"""What keeps one caller from taking all of the service: limits of bodies, a bounded queue, time limits."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from safemirage.config.serve import LimitsConfig
from serve_app.http.errors import ApiError
from serve_app.http.nesting import BodyShape

_SLICE_BYTES = 1 << 16
"""What is looked through before the event loop gets another turn: about a millisecond's work."""


class BodyLimit:
    """ASGI middleware: refuses a body by its announced length, or as soon as what has come of it is over a limit.

    What all bodies hold together is bounded too, from their first byte to the end of the answer.
    """

    def __init__(self, app: ASGIApp, limits: LimitsConfig) -> None:
        self.app = app
        self.limits = limits
        self.held = 0
        """Bytes of all bodies that are worked on."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if self._is_over(Headers(scope=scope).get("content-length", "0")):
            error = too_long(self.limits)
            await error.response()(scope, receive, send)
            return
        body = _Body(self, receive)
        try:
            await self.app(scope, body.receive, send)
        finally:
            self.held -= body.size

    def _is_over(self, announced: str) -> bool:
        digits = announced.lstrip("0") if announced.isdecimal() else ""
        most = str(self.limits.body_bytes)
        # By length first: Python reads no number of more than 4,300 digits.
        return len(digits) > len(most) or (len(digits) == len(most) and digits > most)


class _Body:
    """The body of one request on its way in."""

    def __init__(self, limit: BodyLimit, receive: Receive) -> None:
        self._limit = limit
        self._receive = receive
        self._shape = BodyShape(limit.limits)
        self._deadline = asyncio.get_running_loop().time() + limit.limits.body_timeout_s
        self._complete = False
        self.size = 0

    async def receive(self) -> Message:
        """Raises ApiError (408, 413, 429) where the body is too slow, too large, or too much beside the others."""
        if self._complete:
            return await self._receive()
        try:
            async with asyncio.timeout_at(self._deadline):
                message = await self._receive()
        except TimeoutError:
            raise too_slow(self._limit.limits) from None
        piece = message.get("body", b"")
        self.size += len(piece)
        self._limit.held += len(piece)
        self._complete = not message.get("more_body", False)
        self._check_size()
        for start in range(0, len(piece), _SLICE_BYTES):
            self._shape.feed(piece[start : start + _SLICE_BYTES])
            if start + _SLICE_BYTES < len(piece):
                await asyncio.sleep(0)
        return message

    def _check_size(self) -> None:
        limits = self._limit.limits
        if self.size > limits.body_bytes:
            raise too_long(limits)
        if self._limit.held > limits.bodies_bytes:
            raise busy("the bodies that are worked on fill limits.bodies_bytes", limits)


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


def too_long(limits: LimitsConfig) -> ApiError:
    message = f"the body is over the limit of {limits.body_bytes} bytes"
    return ApiError(413, message, param="body", headers=_LAST)


def too_slow(limits: LimitsConfig) -> ApiError:
    message = f"the body did not come within {limits.body_timeout_s:g} s"
    return ApiError(408, message, param="body", code="timeout", headers=_LAST)


def busy(why: str, limits: LimitsConfig) -> ApiError:
    return ApiError(
        429,
        f"{why}; try again in {limits.retry_after_s} s",
        code="queue_full",
        headers={"Retry-After": str(limits.retry_after_s)},
    )


_LAST = {"Connection": "close"}
"""What follows on the connection is the rest of the body, which nobody reads."""
