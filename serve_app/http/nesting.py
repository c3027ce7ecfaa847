"""How deep a JSON text is nested and how many values it has, counted while it comes in, before anything is built of it."""

import re

from safemirage.config.serve import LimitsConfig
from serve_app.http.errors import ApiError

_MARK = re.compile(rb'["\[\]{},]')
_TEXT = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)
"""The rest of a string up to its end, or to a backslash whose letter is still to come."""


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
        if self._depth > self._limits.body_depth:
            raise _refused("nested deeper than", self._limits.body_depth, "body_depth")
        if self._values > self._limits.body_values:
            raise _refused("of more values than", self._limits.body_values, "body_values")


def _refused(what: str, most: int, name: str) -> ApiError:
    message = f"the body is {what} {most} (limits.{name})"
    return ApiError(413, message, param="body", headers={"Connection": "close"})
