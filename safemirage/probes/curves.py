"""Attack success against steps: a curve for each set and number of records, as a table and as figures."""

from collections.abc import Mapping, Sequence

from safemirage.evaluation.metrics.rates import WordRate, headline
from safemirage.evaluation.reports.figures import Figure, curve_figure
from safemirage.evaluation.reports.grid import Grid
from safemirage.probes.measuring import Measured
from safemirage.store.records import Row
from safemirage.text.numbers import percent, whole_bounds

_METHOD = (
    "95 % intervals (Wilson, over questions) and n in brackets. 0 steps is the export as it is, in every line the same "
    "measurement. Each number of records is a draw of its own from its set."
)


def curve_grid(measured: Measured) -> Grid:
    """A line a condition and curve, a column a number of steps."""
    steps = _steps(measured)
    lines = [
        [condition, label, *[_cell(rows.get(step)) for step in steps]]
        for condition, curves in _curves(measured).items()
        for label, rows in curves.items()
    ]
    judge = next(row.judge for row in measured.rows if row.metric == "asr")
    return Grid(
        title=f"ASR against steps of fine-tuning (judge: {judge})",
        header=["condition", "fine-tuned on", *[_says(step) for step in steps]],
        lines=lines,
        notes=[_METHOD],
    )


def curve_figures(measured: Measured) -> list[Figure]:
    """The curves as figures, one a condition."""
    model = measured.points[0].name
    return [
        curve_figure(
            model,
            f"{condition}: attack success against steps of fine-tuning",
            {
                label: [_rate(step, row) for step, row in rows.items()]
                for label, rows in curves.items()
            },
        )
        for condition, curves in _curves(measured).items()
    ]


def _curves(measured: Measured) -> Mapping[str, Mapping[str, dict[int, Row]]]:
    """Condition -> curve -> steps -> the row of ASR; every curve starts with the export as it is."""
    found: dict[str, dict[str, dict[int, Row]]] = {}
    start, *others = zip(measured.points, measured.evaluations, strict=True)
    first = _asr(start[1].rows)
    for point, evaluation in others:
        label = f"{point.settings['samples']} {point.settings['set']} records"
        for condition, row in _asr(evaluation.rows).items():
            curve = found.setdefault(condition, {}).setdefault(label, {0: first[condition]})
            curve[point.settings["steps"]] = row
    return found


def _asr(rows: Sequence[Row]) -> dict[str, Row]:
    return {row.condition: row for row in headline(rows) if row.metric == "asr"}


def _steps(measured: Measured) -> list[int]:
    return sorted({int(point.settings["steps"]) for point in measured.points})


def _says(steps: int) -> str:
    return "1 step" if steps == 1 else f"{steps} steps"


def _cell(row: Row | None) -> str:
    if row is None or row.value is None or row.low is None or row.high is None:
        return "n/a"
    return f"{percent(row.value)} ({whole_bounds(row.low, row.high)}, n={row.n})"


def _rate(steps: int, row: Row) -> WordRate:
    return WordRate(
        model=row.model,
        word=_says(steps),
        metric="asr",
        subset="unsafe",
        value=row.value,
        low=row.low,
        high=row.high,
        n=row.n,
        judge=row.judge,
    )
