"""Bodies of requests: bounded in bytes, time, depth and number of values while they come in, before anything is built
of them; then read as JSON into pydantic models, off the event loop."""

import asyncio
import json
import re
from collections.abc import Sequence
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Send
from starlette.types import Scope as Connection

from safemirage.config.serve import LimitsConfig
from safemirage.store.tokens import Scope
from serve_app.http.admission import Admission, busy, holder
from serve_app.http.auth import caller_of
from serve_app.http.errors import ApiError, invalid
from serve_app.http.openai import without_neutral
from serve_app.http.schemas import Body

_SLICE_BYTES = 1 << 16
"""What is looked through before the event loop gets another turn: about a millisecond's work."""
_SCHEMAS = "#/components/schemas/{model}"
_MOST_PROBLEMS = 20
_LAST = {"Connection": "close"}
"""What follows on the connection is the rest of the body, which nobody reads."""
_MARK = re.compile(rb'["\[\]{},]')
_TEXT = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)
"""The rest of a string up to its end, or to a backslash whose letter is still to come."""
BodyT = TypeVar("BodyT", bound=BaseModel)


class BodyLimit:
    """ASGI middleware: refuses a body by its announced length, or as soon as what has come of it is over a limit.

    What all bodies hold together is bounded too, from their first byte to the end of the answer.
    """

    def __init__(self, app: ASGIApp, limits: LimitsConfig) -> None:
        self.app = app
        self.limits = limits
        self.held = 0
        """Bytes of all bodies that are worked on."""

    async def __call__(self, scope: Connection, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if self._is_over(Headers(scope=scope).get("content-length", "0")):
            await self.too_long().response()(scope, receive, send)
            return
        # The lines of an uploaded file are each read by themselves.
        is_form = Headers(scope=scope).get("content-type", "").startswith("multipart/")
        body = _Body(self, receive, shaped=not is_form)
        try:
            await self.app(scope, body.receive, send)
        finally:
            self.held -= body.size

    def _is_over(self, announced: str) -> bool:
        digits = announced.lstrip("0") if announced.isdecimal() else ""
        most = str(self.limits.body_bytes)
        # By length first: Python reads no number of more than 4,300 digits.
        return len(digits) > len(most) or (len(digits) == len(most) and digits > most)

    def too_long(self) -> ApiError:
        return _over(f"over the limit of {self.limits.body_bytes} bytes")


class _Body:
    """The body of one request on its way in."""

    def __init__(self, limit: BodyLimit, receive: Receive, *, shaped: bool) -> None:
        self._shaped = shaped
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
            said = f"the body did not come within {self._limit.limits.body_timeout_s:g} s"
            raise ApiError(408, said, param="body", code="timeout", headers=_LAST) from None
        piece = message.get("body", b"")
        self.size += len(piece)
        self._limit.held += len(piece)
        self._complete = not message.get("more_body", False)
        self._check_size()
        for start in range(0, len(piece) if self._shaped else 0, _SLICE_BYTES):
            self._shape.feed(piece[start : start + _SLICE_BYTES])
            if start + _SLICE_BYTES < len(piece):
                await asyncio.sleep(0)
        return message

    def _check_size(self) -> None:
        limits = self._limit.limits
        if self.size > limits.body_bytes:
            raise self._limit.too_long()
        if self._limit.held > limits.bodies_bytes:
            raise busy(
                "the bodies that are worked on fill limits.bodies_bytes", limits.retry_after_s
            )


class BodyShape:
    """The shape of a body that is fed piece by piece. It does not say whether the text is JSON, only that reading it
    is bounded work."""

    def __init__(self, limits: LimitsConfig) -> None:
        self._limits = limits
        self._depth = 0
        self._values = 1
        self._in_text = False
        self._escaped = False

    def feed(self, piece: bytes) -> None:
        """Takes a piece of the body. Raises ApiError (413) as soon as a limit is passed."""
        place = 0
        while place < len(piece):
            place = self._text(piece, place) if self._in_text else self._mark(piece, place)

    def _text(self, piece: bytes, place: int) -> int:
        """The place after the string's own letters, where looking continues."""
        if self._escaped:
            self._escaped = False
            return place + 1
        found = _TEXT.match(piece, place)
        assert found is not None, "it matches nothing too"
        end = found.end()
        if end < len(piece):
            self._in_text = piece[end] != ord('"')
            self._escaped = self._in_text
        return end + 1

    def _mark(self, piece: bytes, place: int) -> int:
        found = _MARK.search(piece, place)
        if found is None:
            return len(piece)
        match found.group():
            case b'"':
                self._in_text = True
            case b"]" | b"}":
                self._depth -= 1
            case b",":
                self._count()
            case _:
                self._depth += 1
                self._count()
        return found.end()

    def _count(self) -> None:
        self._values += 1
        limits = self._limits
        if self._depth > limits.body_depth:
            raise _over(f"nested deeper than {limits.body_depth} (limits.body_depth)")
        if self._values > limits.body_values:
            raise _over(f"of more values than {limits.body_values} (limits.body_values)")


def _over(what: str) -> ApiError:
    return ApiError(413, f"the body is {what}", param="body", headers=_LAST)


async def receive_json(request: Request, admission: Admission, scope: Scope) -> bytes:
    """The body, whole, of a caller with this scope; what it holds is not looked at yet.

    Raises:
        ApiError: the caller may not (403), all places are taken (429), it is not called JSON (415), or it is over a
            limit (408, 413, 429).
    """
    caller_of(request).require(scope)
    admission.check(holder(request))
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json" and not (
        kind.startswith("application/") and kind.endswith("+json")
    ):
        raise ApiError(
            415, f"Content-Type: {kind or 'none'}; send application/json", param="Content-Type"
        )
    return await request.body()


async def parse(
    data: bytes, body: type[BodyT], limits: LimitsConfig, *, status: int = 422
) -> BodyT:
    """The body as its model.

    Raises:
        ApiError: it is not JSON (400), has a mapping of too many keys (413), or is not what the model says (`status`: 400
            where OpenAI says so).
    """
    return await asyncio.to_thread(parse_now, data, body, limits, status)


def parse_all(trees: Sequence[Any], body: type[BodyT], where: str) -> list[BodyT]:
    """One model a tree, each by itself, so that not many more problems are collected than are told.

    Raises:
        ApiError: some are not what the model says (422).
    """
    result, problems = [], []
    for index, tree in enumerate(trees):
        try:
            result.append(body.model_validate(tree))
        except ValidationError as error:
            problems += [{**item, "loc": (where, index, *item["loc"])} for item in _problems(error)]
            if len(problems) >= _MOST_PROBLEMS:
                break
    if problems:
        raise invalid(problems)
    return result


def takes(body: type[BaseModel]) -> dict[str, Any]:
    """`openapi_extra` of a route that reads its body by `parse`."""
    schema = {"$ref": _SCHEMAS.format(model=body.__name__)}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def parse_now(data: bytes, body: type[BodyT], limits: LimitsConfig, status: int = 400) -> BodyT:
    """`parse`, in this thread."""

    def mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(pairs) > limits.body_keys:
            raise ApiError(
                413,
                f"the body has a mapping of {len(pairs)} keys; the limit is {limits.body_keys} (limits.body_keys)",
                param="body",
            )
        return dict(pairs)

    try:
        # Only of UTF-8 are the marks of a body's shape what they were counted as.
        tree = json.loads(data.decode("utf-8"), object_pairs_hook=mapping)
    except ValueError as error:
        message = f"the body is not JSON in UTF-8: {error}"
        raise ApiError(400, message, code="invalid_json") from error
    if issubclass(body, Body) and body.NEUTRAL and isinstance(tree, dict):
        tree = without_neutral(tree, body.NEUTRAL)
    try:
        return body.model_validate(tree)
    except ValidationError as error:
        raise invalid(_problems(error), status) from error


def _problems(error: ValidationError) -> list[Any]:
    return error.errors(include_url=False, include_input=False, include_context=False)
