"""Progress on the error stream, so that what a command prints can be piped."""

from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TimeRemainingColumn

from safemirage.progress import OnNamedProgress

_INTERRUPTED = 130
"""What a shell reports of a program that Ctrl-C ended."""


@contextmanager
def resumable() -> Iterator[None]:
    """For commands that resume when they are called again: says so at Ctrl-C, and exits with 130."""
    try:
        yield
    except KeyboardInterrupt:
        Console(stderr=True).print("interrupted; the same command resumes where it was")
        raise typer.Exit(_INTERRUPTED) from None


@contextmanager
def progress_bars() -> Iterator[OnNamedProgress]:
    """A bar for each name that is reported; outside a terminal a line at each tenth. What they show is resumable."""
    console = Console(stderr=True, highlight=False)
    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with resumable(), Progress(*columns, console=console, disable=not console.is_terminal) as bars:
        tasks: dict[str, TaskID] = {}
        tenths: dict[str, int] = {}

        def show(name: str, done: int, total: int) -> None:
            if name not in tasks:
                tasks[name] = bars.add_task(name, total=total)
            bars.update(tasks[name], completed=done, total=total)
            if not console.is_terminal and total and 10 * done // total > tenths.get(name, 0):
                tenths[name] = 10 * done // total
                console.print(f"{name}: {done}/{total}", markup=False, soft_wrap=True)

        yield show
