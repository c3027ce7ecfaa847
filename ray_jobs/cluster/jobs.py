"""Shows a running job: its lines as they come, and below them a bar for every run that the store says is live."""

import queue
import re
import subprocess
import threading
from typing import IO

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from safemirage.settings import Settings
from safemirage.store.database import Store, open_store

_POLL_S = 1.0
_CHATTER = re.compile(
    r"^[\d-]+ [\d:,]+\s(INFO|SUCC) \S+\.py:\d+ -- "
    r"|WARNING working_dir\.py:\d+ -- Directory '\.(git|venv)' is now ignored"
    r"|^INFO [\d-]+ [\d:,]+ serve \d+ -- "
    r"|\(raylet\).* WARNING: \d+ PYTHON worker processes have been started"
    r"|\(raylet\) Task ServeController\.graceful_shutdown failed\..* killed by `ray\.kill`"
)
"""What `ray job submit`, Serve and the raylet say of themselves; all other warnings and errors of theirs are shown.
The last line is Serve's ordinary end: its controller is killed before the call that asked for it has returned."""
_STYLE = re.compile(r"\x1b\[[\d;]*m")
"""What colours Ray's lines, also where nothing shows colours."""
_BAR_KINDS = ("world", "train", "search", "evaluate")


def follow(job: subprocess.Popen[str], settings: Settings, console: Console) -> None:
    """Returns when the job's output ends. Bars appear on a terminal only; elsewhere the lines stand alone."""
    assert job.stdout is not None
    lines: queue.Queue[str | None] = queue.Queue()
    threading.Thread(target=_read, args=(job.stdout, lines), daemon=True).start()
    if not console.is_terminal:
        while (line := lines.get()) is not None:
            print(line, flush=True)
        return
    columns = (
        TextColumn("{task.description:<40}"), BarColumn(bar_width=30), TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        TimeElapsedColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    store = open_store(settings.store_url)
    with Progress(*columns, console=console, transient=True) as progress:
        bars = _Bars(progress, store)
        while True:
            try:
                line = lines.get(timeout=_POLL_S)
            except queue.Empty:
                bars.update()
                continue
            if line is None:
                return
            console.print(line, markup=False, highlight=False)
            bars.update()


def _read(stream: IO[str], lines: "queue.Queue[str | None]") -> None:
    for line in stream:
        plain = _STYLE.sub("", line)
        if not _CHATTER.search(plain):
            lines.put(plain.rstrip("\n"))
    lines.put(None)


class _Bars:
    def __init__(self, progress: Progress, store: Store) -> None:
        self._progress = progress
        self._store = store
        self._tasks: dict[str, TaskID] = {}

    def update(self) -> None:
        running = {
            run.id: run
            for kind in _BAR_KINDS
            for run in self._store.runs.list(kind=kind)
            if run.state == "running"
        }
        for run_id in self._tasks.keys() - running.keys():
            self._progress.remove_task(self._tasks.pop(run_id))
        for run_id, run in running.items():
            total = float(run.progress.get("total") or 1)
            if run_id not in self._tasks:
                self._tasks[run_id] = self._progress.add_task(f"{run.kind} {run.name}", total=total)
            self._progress.update(
                self._tasks[run_id], completed=float(run.progress.get("done") or 0), total=total
            )
