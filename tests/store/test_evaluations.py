"""Evaluations in the store: submission, the writer's lease, cancelling, pages of samples."""

import time
from dataclasses import replace

import pytest

from safemirage.store import LeaseLost, Store
from safemirage.store.evaluations import IdempotencyConflict
from safemirage.store.leases import Lease
from safemirage.store.records import EvaluationRecord, Row

SPEC = EvaluationRecord(name="m", suite="s")
OTHER = replace(SPEC, suite="t")
ROW = Row(
    model="m", condition="unsafe_plain", metric="asr", value=0.5, low=0.4, high=0.6, n=9,
    judge="oracle", unscored=0,
)  # fmt: skip


def _hold(store: Store, name: str, ttl_s: float = 30) -> Lease:
    lease = store.leases.acquire(f"evaluation:{name}", ttl_s=ttl_s)
    assert lease is not None
    return lease


def test_evaluation_submitted_twice_under_a_key_is_one(store: Store) -> None:
    first = store.evaluations.submit(SPEC, idempotency_key="k")
    assert (first.state, first.done, first.total, first.rows) == ("queued", 0, 0, None)
    assert store.evaluations.submit(SPEC, idempotency_key="k") == first
    assert store.evaluations.submit(SPEC).id != first.id
    assert len(store.evaluations.list()) == 2


def test_evaluation_key_used_for_another_spec_is_refused(store: Store) -> None:
    store.evaluations.submit(SPEC, idempotency_key="k")
    with pytest.raises(IdempotencyConflict, match="'k' was used before"):
        store.evaluations.submit(OTHER, idempotency_key="k")
    store.evaluations.submit(SPEC, evaluation_id="e")
    with pytest.raises(IdempotencyConflict, match="'e'"):
        store.evaluations.submit(OTHER, evaluation_id="e")
    with pytest.raises(IdempotencyConflict, match="another idempotency key"):
        store.evaluations.submit(SPEC, evaluation_id="e", idempotency_key="other")


def test_evaluation_goes_through_its_states(store: Store) -> None:
    store.evaluations.submit(SPEC, evaluation_id="e")
    with _hold(store, "e") as lease:
        assert store.evaluations.start("e", lease=lease, total=3)
        assert store.evaluations.put_batch("e", {0: {"a": 1}, 2: {"a": 3}}, lease=lease, done=2)
        running = store.evaluations.get("e")
        assert running is not None
        assert (running.state, running.done, running.total, running.is_live) == (
            "running",
            2,
            3,
            True,
        )
        assert store.evaluations.put_batch("e", {1: {"a": 2}}, lease=lease, done=3)
        assert store.evaluations.finish("e", [ROW], lease=lease)
    ended = store.evaluations.get("e")
    assert ended is not None
    assert (ended.state, ended.rows, ended.is_live) == ("finished", [ROW], False)
    assert ended.record == SPEC
    assert store.evaluations.samples("e", limit=2) == [
        {"position": 0, "a": 1},
        {"position": 1, "a": 2},
    ]
    assert store.evaluations.samples("e", limit=2, offset=2) == [{"position": 2, "a": 3}]


def test_evaluation_cancelled_while_it_runs_takes_nothing_more(store: Store) -> None:
    store.evaluations.submit(SPEC, evaluation_id="e")
    with _hold(store, "e") as lease:
        store.evaluations.start("e", lease=lease, total=1)
        cancelled = store.evaluations.cancel("e")
        assert cancelled is not None
        assert cancelled.state == "cancelled"
        assert not store.evaluations.put_batch("e", {0: {}}, lease=lease, done=1)
        assert not store.evaluations.finish("e", [], lease=lease)
        assert not store.evaluations.start("e", lease=lease, total=1)
    assert store.evaluations.samples("e") == []
    requeued = store.evaluations.requeue("e")
    assert requeued is not None
    assert requeued.state == "queued"


def test_evaluation_that_ended_stays_as_it_is_when_cancelled(store: Store) -> None:
    store.evaluations.submit(SPEC, evaluation_id="e")
    with _hold(store, "e") as lease:
        store.evaluations.start("e", lease=lease, total=0)
        store.evaluations.finish("e", [], lease=lease)
    ended = store.evaluations.cancel("e")
    assert ended is not None
    assert ended.state == "finished"
    assert store.evaluations.cancel("absent") is None


def test_evaluation_failure_is_recorded_and_can_be_started_again(store: Store) -> None:
    store.evaluations.submit(SPEC, evaluation_id="e")
    with _hold(store, "e") as lease:
        store.evaluations.start("e", lease=lease, total=1)
        assert store.evaluations.fail("e", "no such model \0", lease=lease)
        failed = store.evaluations.get("e")
        assert failed is not None
        assert (failed.state, failed.error) == ("failed", "no such model \\x00")
        assert store.evaluations.start("e", lease=lease, total=1)


def test_evaluation_taken_over_refuses_the_late_writer(store: Store) -> None:
    store.evaluations.submit(SPEC, evaluation_id="e")
    late = _hold(store, "e", ttl_s=0.2)
    store.evaluations.start("e", lease=late, total=1)
    time.sleep(0.4)
    with _hold(store, "e") as lease:
        for write in (
            lambda: store.evaluations.put_batch("e", {0: {"by": "late"}}, lease=late, done=1),
            lambda: store.evaluations.finish("e", [], lease=late),
            lambda: store.evaluations.fail("e", "late", lease=late),
        ):
            with pytest.raises(LeaseLost):
                write()
        assert store.evaluations.put_batch("e", {0: {"by": "new"}}, lease=lease, done=1)
    assert store.evaluations.samples("e") == [{"position": 0, "by": "new"}]


def test_evaluations_list_is_newest_first_in_pages_and_by_state(store: Store) -> None:
    for name in "abc":
        store.evaluations.submit(SPEC, evaluation_id=name)
        time.sleep(0.01)
    store.evaluations.cancel("b")
    assert [item.id for item in store.evaluations.list()] == ["c", "b", "a"]
    assert [item.id for item in store.evaluations.list(limit=1, offset=1)] == ["b"]
    assert [item.id for item in store.evaluations.list(states=("queued", "running"))] == ["c", "a"]
    assert store.evaluations.get("absent") is None


def test_evaluation_of_an_id_that_no_database_holds_is_not_there(store: Store) -> None:
    assert store.evaluations.get("a\0b") is None
    assert store.evaluations.cancel("a\0b") is None
    assert store.runs.get("a\0b") is None
