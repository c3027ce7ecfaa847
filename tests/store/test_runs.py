"""Runs are done once: in one process, in many, and when a holder is killed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from safemirage.store import LeaseLost, RunHandle, RunInterrupted, Store, open_store, run_once

WORKER = Path(__file__).with_name("worker.py")


def _start(url: str, log: Path, *, ttl_s: float = 30, seconds: float = 1, mode: str = "") -> Any:
    command = [sys.executable, str(WORKER), url, "run-1", str(log), str(ttl_s), str(seconds)]
    return subprocess.Popen(
        [*command, mode] if mode else command, stdout=subprocess.PIPE, text=True
    )


def _result(process: Any) -> dict[str, Any]:
    output, _ = process.communicate(timeout=50)
    assert process.returncode == 0
    return dict(json.loads(output))


def _wait_for_file(path: Path, timeout_s: float = 30) -> None:
    deadline = time.monotonic() + timeout_s
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not come"
        time.sleep(0.02)


def _wait_for_lines(log: Path, count: int) -> None:
    deadline = time.monotonic() + 40
    while not log.exists() or len(log.read_text().splitlines()) < count:
        assert time.monotonic() < deadline, "the worker did not start its work"
        time.sleep(0.05)


def _run(store: Store, work: Any, **options: Any) -> Any:
    return run_once(
        store, run_id="run-1", name="npo", kind="train", config={"beta": 0.1}, work=work, **options
    )


def test_run_finished_before_is_returned_without_working(store: Store) -> None:
    calls: list[int] = []

    def work(handle: RunHandle) -> dict[str, float]:
        calls.append(handle.attempt)
        handle.progress({"step": 3})
        return {"loss": 0.5}

    first = _run(store, work)
    second = _run(store, work)
    assert calls == [1]
    assert first == second
    assert (first.state, first.result, first.progress) == ("finished", {"loss": 0.5}, {"step": 3})
    assert (first.config, first.attempts, first.error) == ({"beta": 0.1}, 1, None)
    assert not first.is_live


def test_run_that_failed_records_the_error_and_is_done_again(store: Store) -> None:
    attempts: list[int] = []

    def work(handle: RunHandle) -> dict[str, int]:
        attempts.append(handle.attempt)
        if handle.attempt == 1:
            raise RuntimeError("disk is full \0")
        return {"attempt": handle.attempt}

    with pytest.raises(RuntimeError, match="disk is full"):
        _run(store, work)
    failed = store.runs.get("run-1")
    assert failed is not None
    assert failed.state == "failed"
    assert failed.error is not None
    assert failed.error.startswith("RuntimeError: disk is full \\x00")
    assert "Traceback" in failed.error

    done = _run(store, work)
    assert (done.state, done.attempts, done.result, done.error) == (
        "finished",
        2,
        {"attempt": 2},
        None,
    )
    assert attempts == [1, 2]


@pytest.mark.parametrize("kind", [KeyboardInterrupt, RunInterrupted])
def test_run_that_is_interrupted_waits_to_be_taken_up(
    store: Store, kind: type[BaseException]
) -> None:
    def interrupted(_handle: RunHandle) -> dict[str, int]:
        raise kind

    with pytest.raises(kind):
        _run(store, interrupted)
    record = store.runs.get("run-1")
    assert record is not None
    assert (record.state, record.is_live) == ("queued", False)
    assert _run(store, lambda _: {}).attempts == 2


def test_run_result_that_json_cannot_hold_fails_the_run(store: Store) -> None:
    with pytest.raises(Exception, match="Out of range float"):
        _run(store, lambda _: {"loss": float("nan")})
    record = store.runs.get("run-1")
    assert record is not None
    assert record.state == "failed"


def test_runs_list_filters_by_kind_and_parent(store: Store) -> None:
    for run_id, kind, parent in [("s", "search", None), ("t1", "trial", "s"), ("t2", "trial", "s")]:
        run_once(
            store,
            run_id=run_id,
            name=run_id,
            kind=kind,
            config={},
            parent_id=parent,
            work=lambda _: {},
        )
    assert [run.id for run in store.runs.list()] == ["s", "t1", "t2"]
    assert [run.id for run in store.runs.list(kind="search")] == ["s"]
    assert [run.id for run in store.runs.list(parent_id="s")] == ["t1", "t2"]
    assert store.runs.get("absent") is None


def test_run_taken_over_by_another_refuses_the_late_holders_writes(store: Store) -> None:
    def stalls(handle: RunHandle) -> dict[str, int]:
        lease = handle._lease
        lease._stop.set()  # the beating thread ends, as in a process that is stopped
        time.sleep(0.5)
        assert store.leases.acquire("run:run-1", ttl_s=30) is not None
        assert handle.lost
        with pytest.raises(LeaseLost):
            handle.progress({"step": 1})
        return {"late": 1}

    with pytest.raises(LeaseLost, match="took it over"):
        _run(store, stalls, ttl_s=0.3)
    record = store.runs.get("run-1")
    assert record is not None
    assert (record.state, record.result) == ("running", None)


@pytest.mark.processes
def test_run_asked_for_by_four_processes_is_done_once(store_url: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    processes = [_start(store_url, log) for _ in range(4)]
    results = [_result(process) for process in processes]
    assert len(log.read_text().splitlines()) == 1
    worked = int(log.read_text())
    assert {(result["state"], result["result"]["pid"]) for result in results} == {
        ("finished", worked)
    }


@pytest.mark.processes
def test_run_whose_holder_is_killed_is_resumed_by_its_follower(
    store_url: str, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    holder = _start(store_url, log, ttl_s=3, seconds=60)
    _wait_for_lines(log, 1)
    follower = _start(store_url, log, ttl_s=3, seconds=0)
    _wait_for_file(Path(f"{log}.followed"))
    with open_store(store_url) as store:
        record = store.runs.get("run-1")
        assert record is not None
        assert (record.state, record.is_live) == ("running", True)
        os.kill(holder.pid, signal.SIGKILL)
        holder.communicate()
        result = _result(follower)
        assert result["state"] == "finished"
        assert result["result"] == {"pid": result["pid"]}
        assert result["attempts"] == 2
        assert result["waits"] >= 1
    assert len(log.read_text().splitlines()) == 2


@pytest.mark.processes
def test_run_that_fails_while_followed_tells_the_follower(store_url: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    holder = _start(store_url, log, seconds=0, mode="fail")
    _wait_for_lines(log, 1)
    follower = _start(store_url, log, seconds=0)
    holder.communicate(timeout=50)
    result = _result(follower)
    assert result["waits"] >= 1
    assert (result["state"], result["attempts"]) == ("failed", 1)
    assert len(log.read_text().splitlines()) == 1
