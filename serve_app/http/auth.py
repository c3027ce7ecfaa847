"""Who calls, and what that caller may do: bearer tokens with scopes, and the one rule of what is shown to whom.

Tokens are those of `safemirage token`, and one more may be given by the environment:

SAFEMIRAGE_API_TOKEN    `TOKEN`, or `SCOPE,SCOPE TOKEN`
"""

import fnmatch
import hmac
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from fastapi import Request
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Send
from starlette.types import Scope as Connection

from safemirage.config.loading.load import ConfigError
from safemirage.config.serve import ServeConfig, is_loopback
from safemirage.store.tokens import (
    SCOPES,
    USUAL,
    Scope,
    TokenFile,
    TokenRecord,
    check_scopes,
    digest_of_token,
)
from serve_app.audit import Audit
from serve_app.http.errors import ApiError

TOKEN = "SAFEMIRAGE_API_TOKEN"
_SHORTEST = 16


@dataclass(frozen=True, kw_only=True)
class Caller:
    name: str
    scopes: frozenset[Scope]

    def may(self, scope: Scope) -> bool:
        return scope in self.scopes

    def require(self, scope: Scope) -> None:
        """Raises ApiError (403) where the caller has not this scope."""
        if scope not in self.scopes:
            has = ", ".join(one for one in SCOPES if one in self.scopes) or "none"
            raise ApiError(
                403,
                f"this token has the scopes {has}; this needs {scope!r}",
                code="missing_scope",
            )

    def owns(self, owner: str) -> bool:
        """Whether what `owner` started is this caller's to end or to read; an admin's is everybody's."""
        return self.may("admin") or owner == self.name


ANYONE = Caller(name="anyone", scopes=frozenset(SCOPES))
"""Who calls a service without authentication, which only this machine can reach."""


def caller_of(request: Request) -> Caller:
    caller: Caller = request.state.caller
    return caller


def needs(scope: Scope) -> Callable[[Request], None]:
    """A dependency of routes that only callers with this scope may use."""

    def check(request: Request) -> None:
        caller_of(request).require(scope)

    return check


def is_restricted(model: str, patterns: Sequence[str]) -> bool:
    """Whether what a model says is shown to the scope `unredacted` only, whatever it was asked."""
    return any(fnmatch.fnmatchcase(model, pattern) for pattern in patterns)


class Tokens:
    """The tokens of a storage, and the one of the environment."""

    def __init__(self, file: TokenFile, given: Sequence[TokenRecord] = ()) -> None:
        self._file = file
        self.given = tuple(given)
        """Tokens beside those of the file."""

    def caller(self, token: str) -> Caller:
        """Who bears the token. Raises ApiError (401)."""
        digest, now = digest_of_token(token), datetime.now(UTC)
        # Every token is compared, so the time does not tell which one came close.
        found = [
            one
            for one in (*self.given, *self._file.records())
            if hmac.compare_digest(one.digest, digest)
        ]
        if not found:
            raise _unauthorised("the bearer token is not one of this service's")
        if (state := found[-1].state(now)) != "valid":
            raise _unauthorised(f"the bearer token {found[-1].name!r} is {state}")
        return Caller(name=found[-1].name, scopes=frozenset(found[-1].scopes))


def read_tokens(
    config: ServeConfig, file: TokenFile, environment: Mapping[str, str] | None = None
) -> Tokens | None:
    """The tokens of a service; None where its config asks for no authentication.

    Raises:
        ConfigError: authentication is on and no token holds, or tokens are malformed or open to other users.
    """
    if config.auth == "none":
        return None
    environment = os.environ if environment is None else environment
    given = [_given(line)] if (line := environment.get(TOKEN, "").strip()) else []
    now = datetime.now(UTC)
    if not given and not any(one.state(now) == "valid" for one in file.records()):
        raise ConfigError(
            f"auth: 'token', but {file.path} holds none that is valid, and {TOKEN} is not set; make one with "
            "`safemirage token create NAME`, or set auth=none with a loopback host"
        )
    return Tokens(file, given)


def _given(line: str) -> TokenRecord:
    words = line.split()
    if len(words) > 2:
        raise ConfigError(f"{TOKEN}: write TOKEN or SCOPE,SCOPE TOKEN")
    *scopes, token = words
    if len(token) < _SHORTEST:
        raise ConfigError(
            f"{TOKEN}: a token of {len(token)} characters can be guessed; use {_SHORTEST} or more"
        )
    return TokenRecord(
        name="environment",
        digest=digest_of_token(token),
        scopes=check_scopes(scopes[0].split(",")) if scopes else USUAL,
        created_at=datetime.now(UTC),
    )


class Authentication:
    """ASGI middleware: finds the caller of every call under /v1 before its body is read.

    Without tokens (`auth: none`) it accepts calls by a loopback host name only, so that a page of another
    site, whose name is made to resolve to this machine, cannot call.
    """

    def __init__(self, app: ASGIApp, tokens: Tokens | None, audit: Audit) -> None:
        self.app = app
        self.tokens = tokens
        self.audit = audit

    async def __call__(self, scope: Connection, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].startswith("/v1"):
            try:
                caller = bearer(Headers(scope=scope), self.tokens)
            except ApiError as error:
                self.audit.write("refused", None, path=scope["path"], why=error.message)
                await error.response()(scope, receive, send)
                return
            scope.setdefault("state", {})["caller"] = caller
        await self.app(scope, receive, send)


def bearer(headers: Headers, tokens: Tokens | None) -> Caller:
    """Who sent these headers. Raises ApiError (401, 403)."""
    if tokens is None:
        _check_host(headers.get("host", ""))
        return ANYONE
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise _unauthorised("no bearer token; send the header Authorization: Bearer TOKEN")
    return tokens.caller(token.strip())


def _check_host(host: str) -> None:
    name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
    if not is_loopback(name):
        raise ApiError(
            403, f"host {host!r}: a service without tokens is called by a loopback name only"
        )


def _unauthorised(message: str) -> ApiError:
    return ApiError(401, message, headers={"WWW-Authenticate": "Bearer"})
