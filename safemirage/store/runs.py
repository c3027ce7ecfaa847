"""Runs: pieces of work with an identity. Each is done once, whoever asks for it and however often.

    record = run_once(store, run_id="npo-12ab", name="npo", kind="train", config=tree, work=train)

A finished run is returned, a live one is followed until it ends, a failed or abandoned one is done again: `work`
must itself be able to go on from what an earlier attempt left.
"""

import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

from sqlalchemy import ColumnElement, Row, false, func, select, update

from safemirage.store.engine import Database
from safemirage.store.leases import DEFAULT_TTL_S, Lease, LeaseLost, is_live
from safemirage.store.schema import leases, runs, storable, utc_now

if TYPE_CHECKING:
    from safemirage.store.database import Store

RunState = Literal["queued", "running", "finished", "failed"]
_POLL_S = 0.5
_LEASE_PREFIX = "run:"


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    id: str
    name: str
    kind: str
    """world, train, search, trial, evaluate or report."""
    state: RunState
    config: dict[str, Any]
    result: dict[str, Any] | None
    error: str | None
    """Of the last attempt: the exception's type and message, then its traceback."""
    attempts: int
    parent_id: str | None
    progress: dict[str, Any]
    created_at: datetime
    updated_at: datetime
    is_live: bool
    """Whether a process works on it now. A run whose process died without a word is `queued` again: nobody is needed to
    say so, since its lease has run out."""


RunRecords = list[RunRecord]  # inside Runs, `list` is a method


class RunFailed(RuntimeError):
    """A run that another process did, and that failed there. Asking for it again resumes it."""

    def __init__(self, record: RunRecord) -> None:
        super().__init__(f"run {record.id} failed in another process: {record.error}")
        self.record = record


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
        held = leases.c.name == _LEASE_PREFIX + runs.c.id
        statement = select(runs, live).outerjoin(leases, held).where(*conditions)
        with self._database.read() as connection:
            rows = connection.execute(statement.order_by(runs.c.created_at, runs.c.id)).all()
        return [_record(row) for row in rows]


def _record(row: Row[Any]) -> RunRecord:
    live = row.state == "running" and bool(row.is_live)
    state = "queued" if row.state == "running" and not live else row.state
    return RunRecord(**{**row._asdict(), "state": state, "is_live": live})


class RunHandle:
    """What `work` is given: its run's id and attempt, and a way to say how far it is."""

    def __init__(self, run_id: str, *, attempt: int, runs: Runs, lease: Lease) -> None:
        self.id = run_id
        self.attempt = attempt
        self._runs = runs
        self._lease = lease

    @property
    def lost(self) -> bool:
        """Whether another process may have taken the run over; work should end."""
        return self._lease.lost

    def check(self) -> None:
        """Raises LeaseLost when another process may have taken the run over."""
        self._lease.check()

    def progress(self, values: Mapping[str, Any]) -> None:
        """Replaces the run's progress. A write to the database: about once a second is plenty."""
        self._lease.check()
        self._runs.update(self.id, lease=self._lease, progress=dict(values))


def run_once(  # noqa: PLR0913 - a run is told apart by all of these
    store: "Store",
    *,
    run_id: str,
    name: str,
    kind: str,
    config: Mapping[str, Any],
    work: Callable[[RunHandle], Mapping[str, Any]],
    parent_id: str | None = None,
    on_wait: Callable[[RunRecord], None] | None = None,
    ttl_s: float = DEFAULT_TTL_S,
) -> RunRecord:
    """The finished run: done by this call, or by another process.

    `work` returns the run's result, a plain tree for JSON. `on_wait` is called with the record, about twice a
    second, while another process has the run.

    Raises:
        RunFailed: the run was followed, and failed in the process that had it.
        LeaseLost: this process stalled for longer than `ttl_s` and another took the run over.
        BaseException: what `work` raised; it is written to the record first.
    """
    store.runs.register(run_id, name=name, kind=kind, config=config, parent_id=parent_id)
    followed = False
    while True:
        lease = store.leases.acquire(_LEASE_PREFIX + run_id, ttl_s=ttl_s)
        record = store.runs.get(run_id)
        assert record is not None, f"run {run_id} was registered above"
        if lease is not None:
            with lease:
                if record.state == "finished":
                    return record
                if record.state == "failed" and followed:
                    raise RunFailed(record)
                return _attempt(store.runs, record, work, lease)
        if record.state == "finished":
            return record
        followed = True
        if on_wait is not None:
            on_wait(record)
        time.sleep(_POLL_S)


def _attempt(
    all_runs: Runs,
    record: RunRecord,
    work: Callable[[RunHandle], Mapping[str, Any]],
    lease: Lease,
) -> RunRecord:
    attempt = record.attempts + 1
    all_runs.update(record.id, lease=lease, state="running", attempts=attempt, error=None)
    handle = RunHandle(record.id, attempt=attempt, runs=all_runs, lease=lease)
    with _Recorded(all_runs, record.id, lease):
        result = dict(work(handle))
        all_runs.update(record.id, lease=lease, state="finished", result=result)
    finished = all_runs.get(record.id)
    assert finished is not None, f"run {record.id} was written above"
    return finished


class _Recorded:
    """Writes an exception that passes through into the run's record."""

    def __init__(self, all_runs: Runs, run_id: str, lease: Lease) -> None:
        self._runs = all_runs
        self._run_id = run_id
        self._lease = lease

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None or isinstance(error, LeaseLost):
            return
        # An interrupted run is not at fault: whoever follows it takes it over.
        state = "failed" if isinstance(error, Exception) else "queued"
        lines = "".join(traceback.format_exception(error))
        summary = "".join(traceback.format_exception_only(error)).strip()
        self._runs.update(
            self._run_id, lease=self._lease, state=state, error=storable(f"{summary}\n\n{lines}")
        )
