"""Tables on the screen, and what `evaluate` and `rescore` say at their end. No number is cut.

console = screen()
print_grid(console, rates_grid(rows))
"""

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.text import Text

from safemirage.config.loading.load import to_tree
from safemirage.evaluation.errors import EvaluationError
from safemirage.evaluation.generators.asking import ModelCalls
from safemirage.evaluation.reports.grid import Grid
from safemirage.evaluation.reports.rates import notices, rates_grid
from safemirage.store.evaluations import Evaluation
from safemirage.store.records import Row
from safemirage.text.wide_table import WideTable

_UNBOUNDED = 10_000


def screen() -> Console:
    """The console of standard output. Outside a terminal it is as wide as any table, unless COLUMNS says how wide."""
    console = Console()
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console = Console(width=_UNBOUNDED)
    return console


def print_grid(console: Console, grid: Grid) -> None:
    """The table in as many blocks as the console's width needs, each with the columns that name a line; then its notes."""
    if grid.title:
        console.print(Text(grid.title, style="bold"))
    console.print(WideTable(grid.header, grid.lines, keys=grid.keys))
    for note in grid.notes:
        console.print(Text(note))


@dataclass(frozen=True, kw_only=True)
class Result:
    """A finished evaluation and what it cost."""

    evaluation: Evaluation
    rows: list[Row]
    calls: ModelCalls

    def tree(self) -> dict[str, Any]:
        """The result for JSON."""
        return {
            "evaluation": self.evaluation.id,
            "samples": self.evaluation.done,
            "calls": {"answers": self.calls.answers, "verdicts": self.calls.verdicts},
            "rows": [asdict(row) for row in self.rows],
            "notices": notices(self.rows),
            "spec": to_tree(self.evaluation.record),
        }


def finished_result(evaluation: Evaluation, calls: ModelCalls) -> Result:
    """Raises EvaluationError when it did not finish, with the reason."""
    if evaluation.state != "finished" or evaluation.rows is None:
        reason = f": {evaluation.error}" if evaluation.error else ""
        raise EvaluationError(f"evaluation {evaluation.id} {evaluation.state}{reason}")
    rows = list(evaluation.rows)
    return Result(evaluation=evaluation, rows=rows, calls=calls)


def print_results(console: Console, results: Sequence[Result]) -> None:
    """A table for each suite, with a line a model; then each evaluation's id, and how often models were asked."""
    suites: dict[str, list[Row]] = {}
    for result in results:
        suite = result.evaluation.record.suite or ""
        suites.setdefault(suite, []).extend(result.rows)
    for suite, rows in suites.items():
        print_grid(console, rates_grid(rows, title=suite if len(suites) > 1 else ""))
    for result in results:
        console.print(
            f"evaluation {result.evaluation.id}: {result.evaluation.done} samples",
            soft_wrap=True,
            markup=False,
        )
    answers = sum(result.calls.answers for result in results)
    verdicts = sum(result.calls.verdicts for result in results)
    console.print(
        f"model calls: {answers} for answers, {verdicts} for verdicts (what the store knows is not asked again)",
        soft_wrap=True,
    )
