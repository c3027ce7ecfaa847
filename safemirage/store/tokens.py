"""The bearer tokens of the service: a file of digests, names, scopes and ends. `safemirage token` writes it.

A token is 256 random bits, so its plain SHA-256 tells nothing of it; the token itself is shown once and kept nowhere.
The file is read by its owner only. The service reads it again whenever it changes, so a token that is revoked is refused
from then on.
"""

import fcntl
import hashlib
import json
import os
import re
import secrets
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal, get_args

from pydantic import TypeAdapter, ValidationError

from safemirage.config.loading.load import ConfigError
from safemirage.config.types import Strict
from safemirage.files import whole_file

Scope = Literal["chat", "judge", "evaluate", "read", "unredacted", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
"""chat: ask models. judge: have answers judged. evaluate: start evaluations and batches, and cancel one's own. read: see
models, suites, studies and results. unredacted: see what models say to unsafe questions. admin: act on what others
started, and see why something is broken."""
USUAL: tuple[Scope, ...] = ("chat", "judge", "evaluate", "read")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, kw_only=True)
class TokenRecord(Strict):
    """What is kept of a token."""

    name: str
    """Who has it; what audit log and evaluations call its bearer."""
    digest: str
    """SHA-256 of the token, in hex."""
    scopes: tuple[Scope, ...] = USUAL
    created_at: datetime
    expires_at: datetime | None = None
    revoked_at: datetime | None = None

    def state(self, now: datetime) -> Literal["valid", "expired", "revoked"]:
        if self.revoked_at is not None:
            return "revoked"
        return "expired" if self.expires_at is not None and self.expires_at <= now else "valid"


def digest_of_token(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def check_scopes(names: Sequence[str]) -> tuple[Scope, ...]:
    """The scopes of these names, once each. Raises ConfigError for a name that is none."""
    unknown = [name for name in names if name not in SCOPES]
    if unknown or not names:
        raise ConfigError(
            f"scopes: {unknown[0] if unknown else 'none'!r} is none; choose of {', '.join(SCOPES)}"
        )
    return tuple(scope for scope in SCOPES if scope in names)


class TokenFile:
    def __init__(self, path: Path) -> None:
        self.path = path
        self._read: tuple[tuple[int, int, int], tuple[TokenRecord, ...]] | None = None

    def records(self) -> tuple[TokenRecord, ...]:
        """Every token, also those that hold no more; none where there is no file. Read again when the file changes.

        Raises:
            ConfigError: other users may read the file, or it is not what `safemirage token` writes.
        """
        try:
            found = self.path.stat()
        except FileNotFoundError:
            return ()
        seen = (found.st_mtime_ns, found.st_size, found.st_ino)
        if self._read is None or self._read[0] != seen:
            if found.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
                raise ConfigError(f"{self.path}: other users may read it; chmod 600 {self.path}")
            try:
                tokens = TypeAdapter(tuple[TokenRecord, ...]).validate_json(self.path.read_bytes())
            except ValidationError as error:
                raise ConfigError(
                    f"{self.path}: not a file of `safemirage token`: {error.errors()[0]['msg']}"
                ) from error
            self._read = seen, tokens
        return self._read[1]

    def create(
        self, name: str, scopes: Sequence[str] = USUAL, *, days: float | None = None
    ) -> tuple[TokenRecord, str]:
        """A new token: its record, and the token itself, which nothing keeps.

        Raises:
            ConfigError: a valid token has this name, or name or scopes are none.
        """
        if not _NAME.fullmatch(name):
            raise ConfigError(f"name: {name!r}: use letters, digits, '.', '_' and '-'")
        token, now = f"sm-{secrets.token_urlsafe(32)}", datetime.now(UTC)
        record = TokenRecord(
            name=name,
            digest=digest_of_token(token),
            scopes=check_scopes(scopes),
            created_at=now,
            expires_at=None if days is None else now + timedelta(days=days),
        )
        with self._turn():
            known = self.records()
            if any(one.name == name and one.state(now) == "valid" for one in known):
                raise ConfigError(f"name: {name!r} has a valid token; revoke it first")
            self._write((*known, record))
        return record, token

    def revoke(self, name: str) -> TokenRecord:
        """Ends the valid token of this name. Raises ConfigError that names those there are."""
        now = datetime.now(UTC)
        with self._turn():
            known = self.records()
            valid = [one for one in known if one.state(now) == "valid"]
            found = next((one for one in valid if one.name == name), None)
            if found is None:
                names = ", ".join(one.name for one in valid) or "none"
                raise ConfigError(f"name: no valid token is called {name!r}; there is: {names}")
            ended = replace(found, revoked_at=now)
            self._write(tuple(ended if one is found else one for one in known))
        return ended

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Lets one process at a time change the file."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.with_name(f".{self.path.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _write(self, records: Sequence[TokenRecord]) -> None:
        tree = TypeAdapter(tuple[TokenRecord, ...]).dump_python(tuple(records), mode="json")
        with whole_file(self.path) as draft:
            # The mode is set before there is anything to read.
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
                json.dump(tree, stream, indent=1)
