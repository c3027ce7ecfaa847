"""What n questions can show, as a table beside the rates."""

from collections.abc import Sequence

from safemirage.evaluation.metrics.power import Resolution, resolution, row_resolution
from safemirage.evaluation.metrics.rates import Row
from safemirage.evaluation.reports.tables.grid import Grid


def resolution_grid(rows: Sequence[tuple[Row, int]]) -> Grid | None:
    """A line for every n of the rows, each with its condition's K; None where there is none."""
    found: dict[int, dict[str, None]] = {}
    for row, attempts in rows:
        if row_resolution(row, attempts) is not None:
            found.setdefault(row.n, {})[f"{row.metric} of {row.condition}"] = None
    if not found:
        return None
    lines = []
    for n, names in sorted(found.items()):
        shown = resolution(n)
        assert shown is not None, "n is at least 1"
        lines.append([str(n), ", ".join(names), *_in_points(shown)])
    return Grid(
        title="What n can show",
        header=["n", "rates", "one way, points", "10 % change, points"],
        lines=lines,
        notes=[
            "The smallest difference of two models, or two conditions, over the same n questions that a paired test at 5 % finds "
            "with a power of 80 % (Connor 1987): where all changes go one way, and where 10 % of the questions change. A "
            "smaller difference than this in the tables above is not shown by them, nor is its absence."
        ],
    )


def _in_points(found: Resolution) -> list[str]:
    return [
        "none" if effect is None else f"{100 * effect:.1f}"
        for effect in (found.one_way, found.tenth)
    ]


def resolution_says(found: Resolution | None) -> str:
    """Both figures in points, e.g. `1.8 / 4.2`."""
    return "" if found is None else " / ".join(_in_points(found))
