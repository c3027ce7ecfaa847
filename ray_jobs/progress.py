"""Progress of a run in the driver: from the controller's file into the run's record, and onto the screen."""

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from safemirage.store.leases import LeaseLost
from safemirage.store.runs import RunHandle, RunRecord

_POLL_S = 1.0
_LINE_EVERY_S = 15.0


class ProgressPump:
    """Inside `with`, a thread looks at the progress file once a second. A bar on a terminal, else plain lines."""

    def __init__(self, handle: RunHandle, file: Path) -> None:
        self._handle = handle
        self._file = file
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"progress {handle.id}", daemon=True)
        self._shown: dict[str, Any] = {}
        self._line_at = 0.0
        console = Console(stderr=True)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        self._bar = Progress(*columns, console=console) if console.is_terminal else None
        self._task = None if self._bar is None else self._bar.add_task(handle.id, total=None)

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()
        if self._bar is not None:
            self._bar.stop()

    def _run(self) -> None:
        last = False
        while not last:
            last = self._stop.wait(_POLL_S)  # one more look after the end
            if not self._look(final=last):
                return

    def _look(self, *, final: bool) -> bool:
        """Whether to go on; not when the run was lost, which the driver finds out itself."""
        if not self._file.is_file():
            return True
        progress = json.loads(self._file.read_text())
        if progress == self._shown:
            return True
        try:
            self._handle.progress(progress)
        except LeaseLost:
            return False
        self._shown = progress
        self._show(progress, final=final)
        return True

    def _show(self, progress: dict[str, Any], *, final: bool) -> None:
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=progress["done"], total=progress["total"])
        elif final or time.monotonic() - self._line_at >= _LINE_EVERY_S:
            self._line_at = time.monotonic()
            done, total = progress["done"], progress["total"]
            print(
                f"{self._handle.id}: step {done}/{total}, loss {progress['loss']:.4f}", flush=True
            )


def waiting(run_id: str) -> Callable[[RunRecord], None]:
    """Says once that another process does the run."""
    told = threading.Event()

    def tell(record: RunRecord) -> None:
        if not told.is_set():
            told.set()
            print(f"{run_id}: another process works on it; following", flush=True)

    return tell
