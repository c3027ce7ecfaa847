"""Who may call: bearer tokens with a role each, kept as digests and compared in constant time.

SAFEMIRAGE_API_TOKENS_FILE    a file with a token a line: `TOKEN`, or `ROLE TOKEN`; `#` starts a comment
SAFEMIRAGE_API_TOKEN          one such line

The role `reader` may do everything but read what a model said to an unsafe question; `unredacted` may that too.
"""

import hashlib
import hmac
import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast, get_args

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from safemirage.config.loading.load import ConfigError
from safemirage.config.serve import ServeConfig, is_loopback
from serve_app.http.errors import ApiError

Role = Literal["reader", "unredacted"]
ROLES: tuple[str, ...] = get_args(Role)
TOKENS_FILE = "SAFEMIRAGE_API_TOKENS_FILE"
TOKEN = "SAFEMIRAGE_API_TOKEN"
_SHORTEST = 16


@dataclass(frozen=True, kw_only=True)
class TokenDigest:
    """SHA-256 of a token, in hex, and what its bearer may do."""

    digest: str
    role: Role


def read_tokens(
    config: ServeConfig, environment: Mapping[str, str] | None = None
) -> tuple[TokenDigest, ...] | None:
    """The tokens of the environment; None where the config asks for no authentication.

    Raises:
        ConfigError: authentication is on and there is no token, or a token file is unreadable, open to other
            users, or malformed.
    """
    if config.auth == "none":
        return None
    environment = os.environ if environment is None else environment
    tokens: list[TokenDigest] = []
    if place := environment.get(TOKENS_FILE):
        tokens += _parse(_read_private(Path(place)), f"{TOKENS_FILE}={place}")
    if line := environment.get(TOKEN):
        tokens += _parse([line], TOKEN)
    if not tokens:
        raise ConfigError(
            f"auth: 'token', but neither {TOKENS_FILE} nor {TOKEN} holds one; "
            "set one of them, or auth=none with a loopback host"
        )
    return tuple(tokens)


def _read_private(path: Path) -> list[str]:
    try:
        mode = path.stat().st_mode
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ConfigError(f"{TOKENS_FILE}={path}: cannot be read: {error.strerror}") from error
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ConfigError(f"{TOKENS_FILE}={path}: other users may read it; chmod 600 {path}")
    return lines


def _parse(lines: Sequence[str], source: str) -> list[TokenDigest]:
    tokens = []
    for number, line in enumerate(lines, start=1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        *roles, token = words
        role = roles[0] if roles else "reader"
        if len(words) > 2 or role not in ROLES:
            raise ConfigError(
                f"{source}, line {number}: write TOKEN or ROLE TOKEN, with a role of {ROLES}"
            )
        if len(token) < _SHORTEST:
            raise ConfigError(
                f"{source}, line {number}: a token of {len(token)} characters can be guessed; "
                f"use {_SHORTEST} or more"
            )
        tokens.append(TokenDigest(digest=_digest(token), role=cast(Role, role)))
    return tokens


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


class Authentication:
    """ASGI middleware: checks the token of every call under /v1 before its body is read, and notes the role.

    Without tokens (`auth: none`) it accepts calls by a loopback host name only, so that a page of another
    site, whose name is made to resolve to this machine, cannot call.
    """

    def __init__(self, app: ASGIApp, tokens: Sequence[TokenDigest] | None) -> None:
        self.app = app
        self.tokens = tokens

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].startswith("/v1"):
            headers = Headers(scope=scope)
            try:
                role = self._open_role(headers) if self.tokens is None else self._role(headers)
            except ApiError as error:
                await error.response()(scope, receive, send)
                return
            scope.setdefault("state", {})["role"] = role
        await self.app(scope, receive, send)

    def _open_role(self, headers: Headers) -> Role:
        host = headers.get("host", "")
        name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
        if not is_loopback(name):
            raise ApiError(
                403, f"host {host!r}: a service without tokens is called by a loopback name only"
            )
        return "unredacted"

    def _role(self, headers: Headers) -> Role:
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise _unauthorised("no bearer token; send the header Authorization: Bearer TOKEN")
        digest = _digest(token.strip())
        assert self.tokens is not None
        # Every token is compared, so the time does not tell which one came close.
        matches = [known.role for known in self.tokens if hmac.compare_digest(known.digest, digest)]
        if not matches:
            raise _unauthorised("the bearer token is not one of this service's")
        return "unredacted" if "unredacted" in matches else "reader"


def _unauthorised(message: str) -> ApiError:
    return ApiError(401, message, headers={"WWW-Authenticate": "Bearer"})
