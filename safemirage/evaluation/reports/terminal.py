"""Tables on the screen: what does not fit side by side stands in blocks below each other, and no number is cut.

console = screen()
print_rates(console, rows)
"""

import os
from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from safemirage.evaluation.metrics.rates import Row, grouped, headline
from safemirage.evaluation.reports.format import silence
from safemirage.evaluation.reports.notices import notices
from safemirage.evaluation.reports.tables.grid import Grid
from safemirage.text.numbers import percent, whole_bounds
from safemirage.text.wide_table import WideTable

RATES = {
    "asr": "ASR",
    "degenerate_rate": "degenerate",
    "refusal_rate": "refused",
    "useful_rate": "useful",
}
"""The rates of the main table, in its order."""
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


def print_rates(console: Console, rows: Sequence[Row], *, title: str = "") -> None:
    """The main table, and below it what it does not show by itself."""
    print_grid(console, rates_grid(rows, title=title))
    for said in notices(rows):
        console.print(Text(said))


def rates_grid(rows: Sequence[Row], *, title: str = "") -> Grid:
    """A line a model, a column a condition and metric: ASR and degenerate answers of unsafe conditions, refusals and useful answers
    of safe ones. Below each rate its 95 % interval, n, and what is in it without a verdict."""
    chosen = [row for row in headline(rows) if _is_shown(row, rows)]
    columns = list(dict.fromkeys((row.metric, row.condition) for row in chosen))
    columns.sort(key=lambda column: list(RATES).index(column[0]))
    cells = {(row.model, row.metric, row.condition): rate_cell(row) for row in chosen}
    judges = {
        judge: ", ".join(dict.fromkeys(RATES[row.metric] for row in members))
        for judge, members in grouped(chosen, lambda row: row.judge).items()
    }
    says = "; ".join(f"{judge} ({measured})" for judge, measured in judges.items())
    return Grid(
        title=title,
        header=[
            "model",
            *(f"{RATES[metric]}\n{condition.replace('_', ' ')}" for metric, condition in columns),
        ],
        lines=[
            [model, *[cells.get((model, metric, condition), "") for metric, condition in columns]]
            for model in dict.fromkeys(row.model for row in chosen)
        ],
        notes=[f"Below each rate its 95 % interval and n. Judges: {says}."] if judges else [],
    )


def _is_shown(row: Row, rows: Sequence[Row]) -> bool:
    if row.metric not in RATES:
        return False
    is_unsafe = any(other.condition == row.condition and other.metric == "asr" for other in rows)
    return is_unsafe == (row.metric in ("asr", "degenerate_rate"))


def rate_cell(row: Row) -> str:
    """A rate, its 95 % interval, n, and what is in it without a verdict, each on a line of its own."""
    silent = [silence(row)] if silence(row) else []
    if row.value is None or row.low is None or row.high is None:
        return "\n".join(["n/a", *silent])
    return "\n".join([percent(row.value), whole_bounds(row.low, row.high), f"n={row.n}", *silent])
