"""Follows a run in its driver: from the first worker's file into MLflow and the run's record, and onto the screen."""

import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ray_jobs.worker.journal import read_lines
from safemirage.runs import read_record
from safemirage.store.execution import RunHandle
from safemirage.store.runs import RunRecord
from safemirage.tracking import Tracker
from safemirage.training.job import Report

_POLL_S = 1.0
_LINE_EVERY_S = 15.0


class Follower:
    """Inside `with`, a thread looks at the file once a second. A bar on a terminal, else plain lines.

    The file outlives its run's attempts, so steps that an earlier driver did not come to log are logged now, and
    those that a restarted worker repeats are not logged twice.
    """

    def __init__(
        self,
        handle: RunHandle,
        file: Path,
        tracker: Tracker,
        *,
        on_snapshot: Callable[[Path], None] | None = None,
    ) -> None:
        self._handle = handle
        self._file = file
        self._tracker = tracker
        self._on_snapshot = on_snapshot
        self._offset = 0
        self._logged = tracker.last_step(handle.id)
        self._screen = _Screen(handle.id)
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"follow {handle.id}")
        self._followed: Future[None] | None = None

    def __enter__(self) -> Self:
        self._followed = self._pool.submit(self._run)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._pool.shutdown()
        self._screen.close()
        assert self._followed is not None
        if error is None:
            self._followed.result()  # raises what the thread met

    def _run(self) -> None:
        while not self._stop.wait(_POLL_S):
            self._look()
        self._look(final=True)

    def _look(self, *, final: bool = False) -> None:
        for report in self._new_reports():
            steps = [step for step in report.steps if step["step"] > self._logged]
            if steps:
                self._tracker.log_steps(self._handle.id, steps)
                self._logged = int(steps[-1]["step"])
                last = steps[-1]
                total, loss = report.total_steps, last["loss"]
                # What a step takes beside its computing (reports, checkpoints) is not in it.
                rate = last["speed/samples_per_s"]
                self._handle.progress(
                    {"done": self._logged, "total": total, "loss": loss, "samples_per_s": rate}
                )
                self._screen.show(self._logged, total=total, loss=loss, rate=rate)
            if report.snapshot is not None and self._on_snapshot is not None:
                self._on_snapshot(report.snapshot)
        if final:
            self._screen.show_last()

    def _new_reports(self) -> list[Report]:
        """The reports whose lines have become whole since the last call."""
        if not self._file.is_file():
            return []
        with self._file.open("rb") as stream:
            stream.seek(self._offset)
            text = stream.read()
        whole = text[: text.rfind(b"\n") + 1]
        self._offset += len(whole)
        return [read_record(Report, line, of=str(self._file)) for line in read_lines(whole)]


class _Screen:
    def __init__(self, name: str) -> None:
        self._name = name
        self._line = ""
        self._line_at = 0.0
        console = Console(stderr=True)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]:.1f} samples/s, loss {task.fields[loss]:.4f}"),
            TimeRemainingColumn(),
        )
        self._bar = Progress(*columns, console=console) if console.is_terminal else None
        if self._bar is not None:
            self._task = self._bar.add_task(name, total=None, rate=0.0, loss=float("nan"))
            self._bar.start()

    def show(self, done: int, *, total: int, loss: float, rate: float) -> None:
        if self._bar is not None:
            self._bar.update(self._task, completed=done, total=total, rate=rate, loss=loss)
            return
        self._line = f"{self._name}: step {done}/{total}, loss {loss:.4f}, {rate:.1f} samples/s"
        if time.monotonic() - self._line_at >= _LINE_EVERY_S:
            self.show_last()

    def show_last(self) -> None:
        """Prints the line that was not due yet."""
        if self._line:
            print(self._line, file=sys.stderr, flush=True)
            self._line = ""
            self._line_at = time.monotonic()

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()


def waiting(run_id: str) -> Callable[[RunRecord], None]:
    """Says once that another process does the run."""
    told = threading.Event()

    def tell(record: RunRecord) -> None:
        if not told.is_set():
            told.set()
            said = f"{run_id}: another process works on it; following"
            print(said, file=sys.stderr, flush=True)

    return tell
