"""Tables for the terminal."""

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from safemirage.evaluation.findings import percent
from safemirage.evaluation.grid import Grid
from safemirage.evaluation.metrics import Row, headline

_TITLES = {"asr": "ASR", "refusal_rate": "refused", "useful_rate": "useful", "accuracy": "accuracy"}


def comparison_table(rows: Sequence[Row], *, title: str = "") -> Table:
    """A line a model, a column a case and metric: ASR of unsafe cases, refusals and useful answers of safe ones.
    Below each rate its 95 % interval."""
    chosen = [row for row in headline(rows) if _is_shown(row, rows)]
    columns = list(dict.fromkeys((row.metric, row.case) for row in chosen))
    columns.sort(key=lambda column: list(_TITLES).index(column[0]))
    table = Table(title=title or None, header_style="bold", pad_edge=False)
    table.add_column("model", no_wrap=True)
    for metric, case in columns:
        table.add_column(f"{_TITLES[metric]}\n{case.replace('_', ' ')}", justify="right")
    cells = {(row.model, row.metric, row.case): _cell(row) for row in chosen}
    for model in dict.fromkeys(row.model for row in chosen):
        table.add_row(
            model, *[cells.get((model, metric, case), Text("")) for metric, case in columns]
        )
    return table


def grid_table(grid: Grid) -> Table:
    table = Table(title=grid.title, title_justify="left", header_style="bold", pad_edge=False)
    for place, heading in enumerate(grid.header):
        table.add_column(Text(heading), justify="left" if place == 0 else "right")
    for line in grid.lines:
        table.add_row(*[Text(cell) for cell in line])
    return table


def _is_shown(row: Row, rows: Sequence[Row]) -> bool:
    if row.metric not in _TITLES:
        return False
    is_unsafe = any(other.case == row.case and other.metric == "asr" for other in rows)
    return is_unsafe == (row.metric == "asr")


def _cell(row: Row) -> Text:
    if row.value is None or row.low is None or row.high is None:
        return Text(f"n/a\n{row.unscored} unscored", style="dim")
    cell = Text(percent(row.value))
    cell.append(f"\n{100 * row.low:.0f}-{100 * row.high:.0f}", style="dim")
    return cell
