"""Every error in OpenAI's shape, also those of the framework: {"error": {message, type, param, code}}."""

import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

_log = logging.getLogger(__name__)

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    429: "rate_limit_error",
    504: "timeout_error",
}
_CODES = {401: "invalid_api_key", 404: "not_found", 405: "method_not_allowed", 413: "too_large"}
_MOST_PROBLEMS = 20
_LONGEST_KEY = 100
"""Characters of a caller's own key that an error repeats."""


_PATH = re.compile(r"(?<![\w:/.])/[^\s'\"():;,]*/(?=[^\s'\"():;,/]+)")
"""An absolute path up to its last part; what follows a scheme and a host is none."""


def without_paths(text: str) -> str:
    """The text with the last part alone of each path: where things lie on the server is nothing for callers."""
    return _PATH.sub("", text)


class ApiError(Exception):
    """A request that is refused. `param` names the part of it that is at fault."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.headers = headers

    def response(self) -> JSONResponse:
        return JSONResponse(
            error_body(self.status, self.message, param=self.param, code=self.code),
            status_code=self.status,
            headers=self.headers,
        )


class ClientGone(Exception):
    """The client went away: nobody is there to be answered."""


def error_body(
    status: int, message: str, *, param: str | None = None, code: str | None = None
) -> dict[str, Any]:
    kind = _TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return {
        "error": {
            "message": message,
            "type": kind,
            "param": param,
            "code": code or _CODES.get(status),
        }
    }


def install_error_handlers(app: FastAPI) -> None:
    app.add_exception_handler(ApiError, _refused)
    app.add_exception_handler(HTTPException, _framework_refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(TimeoutError, _timed_out)
    app.add_exception_handler(ClientGone, _left)
    app.add_exception_handler(Exception, _failed)


async def _refused(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ApiError)
    return error.response()


async def _framework_refused(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    message = f"{request.method} {request.url.path}: {error.detail}"
    return JSONResponse(
        error_body(error.status_code, message), status_code=error.status_code, headers=error.headers
    )


async def _invalid(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    # Of path, query and headers: the first part of a place says which.
    return invalid([{**item, "loc": item["loc"][1:]} for item in error.errors()]).response()


def invalid(problems: Sequence[Mapping[str, Any]], status: int = 422) -> ApiError:
    """The error for what pydantic found wrong; the first gives it param and code."""
    lines = [_said(item) for item in problems[:_MOST_PROBLEMS]]
    if len(problems) > _MOST_PROBLEMS:
        lines.append(f"and {len(problems) - _MOST_PROBLEMS} more")
    kind = problems[0]["type"]
    code = next((code for ending, code in _PROBLEMS.items() if kind.endswith(ending)), None)
    return ApiError(
        status, "; ".join(lines), param=_where(problems[0]), code=code or "invalid_value"
    )


def _said(item: Mapping[str, Any]) -> str:
    """A problem in OpenAI's words where it has some."""
    where = _where(item)
    match item["type"]:
        case "missing":
            return f"Missing required parameter: '{where}'."
        case "extra_forbidden":
            return f"Unknown parameter: '{where}'."
    return f"{where}: {item['msg']}"


_PROBLEMS = {
    "missing": "missing_required_parameter",
    "extra_forbidden": "unknown_parameter",
    "_type": "invalid_type",
    "_parsing": "invalid_type",
}
"""How the name of pydantic's problem ends -> OpenAI's code."""


def _where(item: Mapping[str, Any]) -> str:
    return ".".join(str(part)[:_LONGEST_KEY] for part in item["loc"]) or "body"


async def _left(_request: Request, _error: Exception) -> JSONResponse:
    # 499 is nginx's number for it; nobody reads it but a log.
    return JSONResponse(error_body(499, "the client went away"), status_code=499)


def error_of(error: Exception) -> dict[str, Any]:
    """What a caller is told of an error. Nothing of the inside, which the log has."""
    match error:
        case ApiError():
            return error_body(error.status, error.message, param=error.param, code=error.code)
        case TimeoutError():
            return error_body(504, _TOO_LONG, code="timeout")
    _log.error("a request failed", exc_info=error)
    return error_body(500, _FAILED, code="internal_error")


async def _timed_out(_request: Request, error: Exception) -> JSONResponse:
    return JSONResponse(error_of(error), status_code=504)


async def _failed(_request: Request, error: Exception) -> JSONResponse:
    return JSONResponse(error_of(error), status_code=500)


_TOO_LONG = "the request took too long and was given up; send fewer or shorter questions at a time"
_FAILED = "the server failed on this request; its log has the reason"
