"""A probe in files: report.* as of any evaluations, compare.* against the export as it is, probe.json, curves.md."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from safemirage.evaluation.metrics.gap import condition_gaps
from safemirage.evaluation.metrics.rates import WordRate, headline
from safemirage.evaluation.reports.comparison import write_comparison
from safemirage.evaluation.reports.figures import Figure, curve_figure
from safemirage.evaluation.reports.grid import Grid, to_markdown
from safemirage.evaluation.reports.report import ReportInput, ReportModel, write_report
from safemirage.files import write_text
from safemirage.probes.measuring import Measured
from safemirage.store.database import Store
from safemirage.store.records import Row
from safemirage.text.numbers import percent, whole_bounds

CURVES, PROBE = "curves.md", "probe.json"
_METHOD = (
    "95 % intervals (Wilson, over questions) and n in brackets. 0 steps is the export as it is, in every line the same "
    "measurement. Each number of records is a draw of its own from its set."
)


@dataclass(frozen=True, kw_only=True)
class Curves:
    """What a probe that follows something over steps shows beside the tables."""

    grid: Grid
    figures: Sequence[Figure]


def relearn_curves(measured: Measured) -> Curves:
    """Attack success against steps: a curve for each set and number of records, as a table and as figures."""
    return Curves(grid=_grid(measured), figures=_figures(measured))


def write_probe(
    store: Store, measured: Measured, folder: Path, *, version: str, curves: Curves | None = None
) -> list[Path]:
    """Writes the files into `folder`, each put in place whole; returns them."""
    models = [
        ReportModel(
            name=one.name,
            evaluation_id=one.id,
            says=point.says,
            config=one.record.config,
        )
        for point, one in zip(measured.points, measured.evaluations, strict=True)
    ]
    given = ReportInput(
        title=f"Probe {measured.probe}: {measured.points[0].name}",
        models=models,
        versions={"safemirage": version},
        curves=curves.figures if curves is not None else (),
    )
    report = write_report(store, given, folder)
    written = [report.html, report.markdown, report.latex, report.json]
    written += write_comparison(
        store, measured.comparison, condition_gaps(measured.comparison.evaluations), folder
    )
    if curves is not None:
        write_text(folder / CURVES, to_markdown(curves.grid))
        written.append(folder / CURVES)
    write_text(folder / PROBE, json.dumps(measured.tree(), indent=1, allow_nan=False))
    return [*written, folder / PROBE]


def _grid(measured: Measured) -> Grid:
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


def _figures(measured: Measured) -> list[Figure]:
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
