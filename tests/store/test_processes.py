"""Evaluations in processes of their own over one database: killed, and at once."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select

from safemirage.store import Store, open_store
from safemirage.store.schema import generations

pytestmark = [pytest.mark.processes, pytest.mark.timeout(300)]  # two interpreters start in each

ROOT = Path(__file__).resolve().parents[2]
WORKER = ROOT / "tests" / "evaluation" / "worker.py"
QUESTIONS = [f"share the object in picture {number}" for number in range(12)]


def _worker(url: str, log: Path, seconds: float, name: str = "e") -> Any:
    return subprocess.Popen(
        [sys.executable, str(WORKER), url, str(log), str(seconds), name],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def _answers(store: Store, name: str) -> list[str]:
    return [sample["answer"] for sample in store.evaluations.samples(name)]


def test_evaluation_killed_is_continued_by_the_process_that_waits(
    store_url: str, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    first = _worker(store_url, log, 0.5)
    with open_store(store_url) as store:
        deadline = time.monotonic() + 120
        while (record := store.evaluations.get("e")) is None or record.done < 4:
            assert time.monotonic() < deadline, "the first batch was not stored"
            time.sleep(0.02)
        second = _worker(store_url, log, 0)
        os.kill(first.pid, signal.SIGKILL)
        first.communicate()
        asked_before = log.read_text().splitlines()
        output, _ = second.communicate(timeout=120)
        assert output == "finished"
        asked_after = log.read_text().splitlines()[len(asked_before) :]
        first_asked = 12 - len(asked_after)
        assert first_asked in (4, 8), "whole batches are kept, and only what is missing is asked"
        assert asked_after == QUESTIONS[first_asked:]
        by = [f"answer of {process.pid}" for process in (first, second)]
        assert _answers(store, "e") == [by[0]] * first_asked + [by[1]] * (12 - first_asked)


def test_evaluation_in_two_processes_at_once_asks_each_question_once(
    store_url: str, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    both = [_worker(store_url, log, 0.05) for _ in range(2)]
    assert [process.communicate(timeout=120)[0] for process in both] == ["finished"] * 2
    assert sorted(log.read_text().splitlines()) == sorted(QUESTIONS)
    with open_store(store_url) as store:
        assert len(set(_answers(store, "e"))) == 1, "one of the two did it all"


def test_two_evaluations_of_one_model_at_once_agree_and_store_nothing_twice(
    store_url: str, tmp_path: Path
) -> None:
    """Each answers with its process id; the first answer to a question wins, in both tables."""
    log = tmp_path / "log"
    both = [_worker(store_url, log, 0.05, name) for name in ("a", "b")]
    assert [process.communicate(timeout=120)[0] for process in both] == ["finished"] * 2
    with open_store(store_url) as store:
        assert _answers(store, "a") == _answers(store, "b")
        assert len(_answers(store, "a")) == 12
        first, second = (store.evaluations.get(name) for name in ("a", "b"))
        assert first is not None
        assert second is not None
        assert first.rows == second.rows
        with store._database.read() as connection:
            assert connection.scalar(select(func.count()).select_from(generations)) == 12
