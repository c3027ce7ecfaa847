"""Leases: one process at a time holds a name, and a dead holder's name comes free by itself.

    with store.leases.acquire("run:npo-12ab", ttl_s=30) as lease:    # None when somebody holds it
        while work: lease.check()

A lease is a row with an owner and a heartbeat. Taking a free or expired one is a single conditional
statement, so two processes cannot both succeed. Times are the database's own, so that machines whose clocks
differ agree.
"""

import logging
import os
import socket
import threading
import time
import uuid
from typing import Any, Self

from sqlalchemy import ColumnElement, bindparam, delete, func, literal, select, update
from sqlalchemy.exc import OperationalError

from safemirage.store.engine import Database
from safemirage.store.schema import leases

DEFAULT_TTL_S = 30.0
_BEATS_PER_TTL = 5
_log = logging.getLogger(__name__)


class LeaseLost(RuntimeError):
    """Another process holds the lease now, or the database could not be told for longer than its lifetime."""


class Lease:
    """A held lease. Inside `with`, a daemon thread beats; leaving it gives the lease back."""

    def __init__(self, database: Database, *, name: str, owner: str, ttl_s: float) -> None:
        self.name = name
        self.owner = owner
        self.ttl_s = ttl_s
        self._database = database
        # This process's own clock, which no adjustment of the machine's time moves.
        self._beaten_at = time.monotonic()
        self._taken = False
        self._stop = threading.Event()
        self._thread = threading.Thread(
            target=self._keep_beating, name=f"lease {name}", daemon=True
        )

    @property
    def lost(self) -> bool:
        return self._taken or time.monotonic() - self._beaten_at > self.ttl_s

    def check(self) -> None:
        """Raises LeaseLost when the lease is not ours any more."""
        if self.lost:
            raise LeaseLost(f"{self.name}: the lease of {self.owner} was lost")

    def beat(self) -> None:
        """One heartbeat. A lease that is no longer ours shows in `lost`."""
        # Taken before the write: counted from its end, a slow write would make the lease look younger than it is.
        started = time.monotonic()
        statement = (
            update(leases)
            .where(leases.c.name == self.name, leases.c.owner == self.owner)
            .values(heartbeat_s=now_s(self._database))
        )
        with self._database.write() as connection:
            # Nobody but a process that took the lease over changes the owner or removes the row.
            if connection.execute(statement).rowcount == 0:
                self._taken = True
                return
        self._beaten_at = started

    def held(self) -> ColumnElement[bool]:
        """A condition for the WHERE of a write that only the holder may make."""
        return (
            select(literal(1))
            .where(leases.c.name == self.name, leases.c.owner == self.owner)
            .exists()
        )

    def release(self) -> None:
        self._stop.set()
        # A beat after the row is deleted would change nothing, but its write could still wait for the database.
        if self._thread.is_alive():
            self._thread.join()
        with self._database.write() as connection:
            connection.execute(
                delete(leases).where(leases.c.name == self.name, leases.c.owner == self.owner)
            )

    def start(self) -> None:
        """Begins to beat, until `release`. For callers that cannot use `with`."""
        self._thread.start()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self.release()

    def _keep_beating(self) -> None:
        while not self._stop.wait(self.ttl_s / _BEATS_PER_TTL):
            try:
                self.beat()
            except OperationalError as error:
                # A busy or restarting database: the next beat may come through before the lease expires.
                _log.warning("%s: a heartbeat failed: %s", self.name, error.orig)
            if self._taken:
                return


class Leases:
    def __init__(self, database: Database) -> None:
        self._database = database

    def acquire(self, name: str, *, ttl_s: float = DEFAULT_TTL_S) -> Lease | None:
        """The lease on `name`, or None while a live process holds it. Takes over an expired one."""
        if ttl_s <= 0:
            raise ValueError(f"ttl_s: {ttl_s!r} is not allowed; give seconds > 0")
        # Host and process are for people to read; the token tells two leases of one process apart.
        owner = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:12]}"
        now = now_s(self._database)
        fresh: dict[str, Any] = {"owner": owner, "heartbeat_s": now, "ttl_s": ttl_s}
        statement = (
            self._database.upsert(leases)
            .values(name=name, **fresh)
            .on_conflict_do_update(
                index_elements=[leases.c.name],
                set_=fresh,
                where=leases.c.heartbeat_s + leases.c.ttl_s < now,
            )
            .returning(leases.c.owner)
        )
        with self._database.write() as connection:
            taken = connection.scalar(statement)
        # The row of a live holder did not meet the condition, so nothing was written and no owner came back.
        if taken is None:
            return None
        return Lease(self._database, name=name, owner=owner, ttl_s=ttl_s)


def now_s(database: Database) -> ColumnElement[float]:
    """The time in seconds since the epoch: the server's for PostgreSQL, this machine's for SQLite."""
    if database.is_sqlite:
        return bindparam(None, time.time(), unique=True)
    return func.extract("epoch", func.clock_timestamp()).cast(leases.c.heartbeat_s.type)


def is_live(database: Database) -> ColumnElement[bool]:
    """Whether a row of `leases` has a heartbeat younger than its lifetime."""
    return leases.c.heartbeat_s + leases.c.ttl_s >= now_s(database)
