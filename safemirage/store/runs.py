"""The records of runs: pieces of work with an identity, and what is known of each.

`safemirage.store.execution` does the work of a run and writes its record.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import ColumnElement, Row, false, func, select, update

from safemirage.store.engine import Database
from safemirage.store.leases import Lease, LeaseLost, is_live
from safemirage.store.schema import leases, runs, utc_now

RunState = Literal["queued", "running", "finished", "failed"]
LEASE_PREFIX = "run:"


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    id: str
    name: str
    kind: str
    """What is done: world, train, search, trial, evaluate or report."""
    state: RunState
    config: dict[str, Any]
    result: dict[str, Any] | None
    error: str | None
    """How the last attempt failed: the exception's type and message, then its traceback."""
    attempts: int
    parent_id: str | None
    progress: dict[str, Any]
    created_at: datetime
    updated_at: datetime
    is_live: bool
    """Whether a process works on it now. A run whose process died without a word is `queued` again: nobody is needed to
    say so, since its lease has run out."""


RunRecords = list[RunRecord]  # inside Runs, `list` is a method


class Runs:
    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, run_id: str) -> RunRecord | None:
        if "\0" in run_id:  # PostgreSQL refuses to compare with it
            return None
        found = self._select(runs.c.id == run_id)
        return found[0] if found else None

    def list(self, kind: str | None = None, parent_id: str | None = None) -> RunRecords:
        """The runs, oldest first: all, those of a kind, those of a parent."""
        conditions = []
        if kind is not None:
            conditions.append(runs.c.kind == kind)
        if parent_id is not None:
            conditions.append(runs.c.parent_id == parent_id)
        return self._select(*conditions)

    def register(
        self,
        run_id: str,
        *,
        name: str,
        kind: str,
        config: Mapping[str, Any],
        parent_id: str | None = None,
    ) -> None:
        """Makes the run known as `queued`; one that is known already stays as it is."""
        now = utc_now()
        row = {
            "id": run_id,
            "name": name,
            "kind": kind,
            "state": "queued",
            "config": dict(config),
            "result": None,
            "error": None,
            "attempts": 0,
            "parent_id": parent_id,
            "progress": {},
            "created_at": now,
            "updated_at": now,
        }
        with self._database.write() as connection:
            self._database.insert_new(connection, runs, [row])

    def update(self, run_id: str, *, lease: Lease, **values: Any) -> None:
        """Writes columns of the run. Raises LeaseLost when the lease is not held any more."""
        statement = (
            update(runs)
            .where(runs.c.id == run_id, lease.held())
            .values(updated_at=utc_now(), **values)
        )
        with self._database.write() as connection:
            changed = connection.execute(statement).rowcount
        if changed == 0:
            raise LeaseLost(f"run {run_id}: another process took it over; nothing was written")

    def _select(self, *conditions: ColumnElement[bool]) -> RunRecords:
        live = func.coalesce(is_live(self._database), false()).label("is_live")
        held = leases.c.name == LEASE_PREFIX + runs.c.id
        statement = select(runs, live).outerjoin(leases, held).where(*conditions)
        with self._database.read() as connection:
            rows = connection.execute(statement.order_by(runs.c.created_at, runs.c.id)).all()
        return [_record(row) for row in rows]


def _record(row: Row[Any]) -> RunRecord:
    live = row.state == "running" and bool(row.is_live)
    state = "queued" if row.state == "running" and not live else row.state
    return RunRecord(**{**row._asdict(), "state": state, "is_live": live})
