"""Evaluations: what was asked for, how far it is, its rows and its samples. State survives whoever works on it."""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any, Literal, get_args

from sqlalchemy import ColumnElement, false, func, select, update
from sqlalchemy import Row as SelectedRow

from safemirage.config.loading.load import ConfigError, build_config, to_tree
from safemirage.store.engine import Database
from safemirage.store.leases import Lease, LeaseLost, is_live
from safemirage.store.records import EvaluationRecord, Row
from safemirage.store.schema import (
    evaluation_samples,
    evaluations,
    leases,
    storable,
    utc_now,
)

EvaluationState = Literal["queued", "running", "finished", "failed", "cancelled"]
TERMINAL: frozenset[EvaluationState] = frozenset({"finished", "failed", "cancelled"})
"""States that an evaluation leaves only when it is asked for again."""
LEASE_PREFIX = "evaluation:"
_OPEN: frozenset[EvaluationState] = frozenset(get_args(EvaluationState)) - TERMINAL


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    id: str
    record_tree: dict[str, Any]
    """What it was asked to do, as it is stored; `record` reads it."""
    state: EvaluationState
    done: int
    """Samples answered and judged."""
    total: int
    """Number of all samples; 0 until they are counted."""
    row_trees: list[dict[str, Any]] | None
    """The table when finished, as it is stored; `rows` reads it."""
    error: str | None
    idempotency_key: str | None
    created_at: datetime
    updated_at: datetime
    is_live: bool
    """Whether a process works on it now. One whose process died without a word is `queued` again, since its lease has run
    out."""

    # Both are read when they are asked for: a listing must not fail at one that another version has stored.
    @property
    def record(self) -> EvaluationRecord:
        """What it was asked to do.

        Raises:
            ConfigError: it is not what this version records.
        """
        tree = dict(self.record_tree)
        samples: Sequence[dict[str, Any]] | None = tree.pop("samples", None)
        found = build_config(EvaluationRecord, tree, source=f"record of evaluation {self.id}")
        # Samples may be many, and were checked when they came in.
        return replace(found, samples=None if samples is None else tuple(samples))

    @property
    def readable(self) -> EvaluationRecord | None:
        """The record, or None for what another version has recorded: it is left out where others are looked for."""
        try:
            return self.record
        except ConfigError:
            return None

    @property
    def rows(self) -> list[Row] | None:
        """The table, when finished."""
        return None if self.row_trees is None else [Row(**tree) for tree in self.row_trees]


EvaluationRecords = list[Evaluation]  # inside Evaluations, `list` is a method
SampleRecords = list[dict[str, Any]]


class IdempotencyConflict(ValueError):
    """The key was used before, for something else."""


class Evaluations:
    def __init__(self, database: Database) -> None:
        self._database = database

    def submit(
        self,
        record: EvaluationRecord,
        *,
        evaluation_id: str | None = None,
        idempotency_key: str | None = None,
    ) -> Evaluation:
        """The evaluation of this id or key, queued if it is new; one that is known is returned as it is.

        Raises:
            IdempotencyConflict: the id or key is known with another record.
        """
        now, spec = utc_now(), to_tree(record)
        row = {
            "id": evaluation_id or f"eval-{uuid.uuid4().hex}",
            "spec": spec,
            "state": "queued",
            "done": 0,
            "total": 0,
            "idempotency_key": idempotency_key,
            "created_at": now,
            "updated_at": now,
        }
        with self._database.write() as connection:
            self._database.insert_new(connection, evaluations, [row])
        same_key = evaluations.c.idempotency_key == idempotency_key
        found = self._select(same_key if idempotency_key else evaluations.c.id == row["id"])
        if not found:
            raise IdempotencyConflict(
                f"id {evaluation_id!r} is in use under another idempotency key"
            )
        if found[0].record_tree != spec:
            named = (
                f"idempotency key {idempotency_key!r}" if idempotency_key else f"id {row['id']!r}"
            )
            raise IdempotencyConflict(
                f"{named} was used before for another evaluation; give a new one"
            )
        return found[0]

    def adopt(
        self,
        evaluation_id: str,
        *,
        record: EvaluationRecord,
        rows: Sequence[Row],
        samples: Mapping[int, Mapping[str, Any]],
    ) -> Evaluation:
        """Takes in an evaluation that finished elsewhere, whole; the same one again changes nothing.

        Raises:
            IdempotencyConflict: the id is known with another record, table or samples.
        """
        now = utc_now()
        row = {
            "id": evaluation_id,
            "spec": to_tree(record),
            "state": "finished",
            "done": len(samples),
            "total": len(samples),
            "rows": [asdict(one) for one in rows],
            "created_at": now,
            "updated_at": now,
        }
        payloads = [
            {"evaluation_id": evaluation_id, "position": position, "payload": dict(payload)}
            for position, payload in sorted(samples.items())
        ]
        with self._database.write() as connection:
            known = connection.scalar(
                select(evaluations.c.id).where(evaluations.c.id == evaluation_id)
            )
            if known is None:
                self._database.insert_new(connection, evaluations, [row])
                self._database.insert_new(connection, evaluation_samples, payloads)
        there = self.get(evaluation_id)
        assert there is not None, f"evaluation {evaluation_id} was inserted above"
        held = {one.pop("position"): one for one in self.samples(evaluation_id)}
        same = (there.record_tree, there.row_trees) == (row["spec"], row["rows"])
        if there.state != "finished" or not same or held != dict(samples):
            raise IdempotencyConflict(
                f"evaluation {evaluation_id!r} is in the store already, and is another one"
            )
        return there

    def get(self, evaluation_id: str) -> Evaluation | None:
        if "\0" in evaluation_id:  # PostgreSQL refuses to compare with it
            return None
        found = self._select(evaluations.c.id == evaluation_id)
        return found[0] if found else None

    def list(
        self,
        *,
        states: Sequence[EvaluationState] = (),
        limit: int | None = None,
        offset: int = 0,
    ) -> EvaluationRecords:
        """The evaluations, newest first: those in any of `states`, or all."""
        conditions = [evaluations.c.state.in_(states)] if states else []
        return self._select(*conditions, limit=limit, offset=offset)

    def count_states(self) -> dict[str, int]:
        """How many evaluations are in each state."""
        statement = select(evaluations.c.state, func.count()).group_by(evaluations.c.state)
        with self._database.read() as connection:
            found = {state: int(count) for state, count in connection.execute(statement)}
        return {state: found.get(state, 0) for state in get_args(EvaluationState)}

    def cancel(self, evaluation_id: str) -> Evaluation | None:
        """Ends it: whoever works on it stops after the batch in hand. One that has ended stays as it is."""
        if self.get(evaluation_id) is None:
            return None
        self._change(
            evaluations.c.id == evaluation_id, evaluations.c.state.in_(_OPEN), state="cancelled"
        )
        return self.get(evaluation_id)

    def requeue(self, evaluation_id: str) -> Evaluation | None:
        """Queues it again when it failed or was cancelled; what it stored is kept and used."""
        ended = evaluations.c.state.in_(TERMINAL - {"finished"})
        self._change(evaluations.c.id == evaluation_id, ended, state="queued", error=None)
        return self.get(evaluation_id)

    def start(self, evaluation_id: str, *, lease: Lease, total: int) -> bool:
        """Marks it as running; False when it was cancelled or has ended."""
        can_start = evaluations.c.state.in_((*_OPEN, "failed"))
        return self._held(
            evaluation_id, lease, can_start, state="running", total=total, done=0, error=None
        )

    def put_batch(
        self,
        evaluation_id: str,
        samples: Mapping[int, Mapping[str, Any]],
        *,
        lease: Lease,
        done: int,
    ) -> bool:
        """Stores samples by position, and how far it is; False when it was cancelled."""
        rows = [
            {"evaluation_id": evaluation_id, "position": position, "payload": dict(payload)}
            for position, payload in sorted(samples.items())
        ]
        running = evaluations.c.state == "running"
        statement = (
            update(evaluations)
            .where(evaluations.c.id == evaluation_id, running, lease.held())
            .values(done=done, updated_at=utc_now())
        )
        with self._database.write() as connection:
            changed = connection.execute(statement).rowcount > 0
            if changed and rows:
                upsert = self._database.upsert(evaluation_samples)
                key = [evaluation_samples.c.evaluation_id, evaluation_samples.c.position]
                connection.execute(
                    upsert.on_conflict_do_update(
                        index_elements=key, set_={"payload": upsert.excluded.payload}
                    ),
                    rows,
                )
        return changed or self._still_ours(evaluation_id, lease)

    def finish(self, evaluation_id: str, rows: Sequence[Row], *, lease: Lease) -> bool:
        """Stores the table; False when it was cancelled."""
        running = evaluations.c.state == "running"
        table = [asdict(row) for row in rows]
        return self._held(evaluation_id, lease, running, state="finished", rows=table)

    def fail(self, evaluation_id: str, error: str, *, lease: Lease) -> bool:
        """Records what went wrong; False when it was cancelled."""
        running = evaluations.c.state == "running"
        return self._held(evaluation_id, lease, running, state="failed", error=storable(error))

    def samples(
        self, evaluation_id: str, *, limit: int | None = None, offset: int = 0
    ) -> SampleRecords:
        """A page of the samples stored so far, by position; each has its `position` beside its own fields."""
        columns = evaluation_samples.c
        statement = (
            select(columns.position, columns.payload)
            .where(columns.evaluation_id == evaluation_id)
            .order_by(columns.position)
            .limit(limit)
            .offset(offset)
        )
        with self._database.read() as connection:
            return [
                {"position": row.position, **row.payload} for row in connection.execute(statement)
            ]

    def _held(
        self, evaluation_id: str, lease: Lease, *conditions: ColumnElement[bool], **values: Any
    ) -> bool:
        if self._change(evaluations.c.id == evaluation_id, lease.held(), *conditions, **values):
            return True
        return self._still_ours(evaluation_id, lease)

    def _still_ours(self, evaluation_id: str, lease: Lease) -> bool:
        """False after a write that changed nothing although the lease is held: the state did not allow it."""
        with self._database.read() as connection:
            if connection.scalar(select(lease.held())):
                return False
        raise LeaseLost(
            f"evaluation {evaluation_id}: another process took it over; nothing was written"
        )

    def _change(self, *conditions: ColumnElement[bool], **values: Any) -> bool:
        statement = update(evaluations).where(*conditions).values(updated_at=utc_now(), **values)
        with self._database.write() as connection:
            return connection.execute(statement).rowcount > 0

    def _select(
        self, *conditions: ColumnElement[bool], limit: int | None = None, offset: int = 0
    ) -> EvaluationRecords:
        live = func.coalesce(is_live(self._database), false()).label("is_live")
        held = leases.c.name == LEASE_PREFIX + evaluations.c.id
        statement = (
            select(evaluations, live)
            .outerjoin(leases, held)
            .where(*conditions)
            .order_by(evaluations.c.created_at.desc(), evaluations.c.id)
            .limit(limit)
            .offset(offset)
        )
        with self._database.read() as connection:
            rows = connection.execute(statement).all()
        return [_evaluation(row) for row in rows]


def _evaluation(found: SelectedRow[Any]) -> Evaluation:
    live = found.state in _OPEN and bool(found.is_live)
    columns = {**found._asdict(), "is_live": live}
    if found.state == "running" and not live:
        columns["state"] = "queued"
    return Evaluation(record_tree=columns.pop("spec"), row_trees=columns.pop("rows"), **columns)
