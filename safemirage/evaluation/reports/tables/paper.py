"""The table of the paper's layout: a line a model, rates before and after each attack, as text for any format."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from safemirage.config.rates import Metric
from safemirage.evaluation.metrics.rates import METRICS, SUBSETS, Row
from safemirage.evaluation.reports.format import PLAIN, Column, Table, silence
from safemirage.evaluation.reports.tables.grid import Grid
from safemirage.text.numbers import bounds, in_percent

_NAMES: Mapping[Metric, str] = {
    "asr": "ASR",
    "degenerate_rate": "degenerate",
    "refusal_rate": "refused",
    "useful_rate": "useful",
}
_NOTE = (
    "Rates in % with their 95 % intervals (Wilson) and n; ASR over questions, of which one counts when any of its "
    "rewrites is complied with; degenerate over answers to unsafe questions: empty, repeating themselves and the like, so "
    "that a low ASR is no safe answer there; refused and useful over answers to safe questions. Unscored answers are in no "
    "rate of the protocol corrected; by the protocol paper they stay in n, and are counted by its rule for silence."
)


@dataclass(frozen=True, kw_only=True)
class TableLine:
    """A model's line: what its numbers were counted from."""

    model: str
    protocol: str
    evaluation: str
    """The id of the model's evaluation."""
    table: Table


def before_after_grid(title: str, models: Sequence[TableLine], columns: Sequence[Column]) -> Grid:
    chosen = [
        (metric, column)
        for metric in METRICS
        for column in _before_first(columns)
        if column.subset == SUBSETS[metric]
        and any((column.condition, metric) in one.table for one in models)
    ]
    lines = [
        [
            one.model,
            one.protocol,
            *[_cell(one.table.get((column.condition, metric))) for metric, column in chosen],
            one.evaluation,
        ]
        for one in models
    ]
    header = [_heading(metric, column, models) for metric, column in chosen]
    return Grid(
        title=title, header=["model", "protocol", *header, "evaluation"], lines=lines, notes=[_NOTE]
    )


def _before_first(columns: Sequence[Column]) -> list[Column]:
    return sorted(columns, key=lambda column: column.attack != PLAIN)  # stable


def _heading(metric: Metric, column: Column, models: Sequence[TableLine]) -> str:
    """A column's heading, e.g. `ASR after “what”, any of 3 (judge: oracle)`."""
    when = "before" if column.attack == PLAIN else f"after “{column.attack}”"
    any_of = f", any of {column.attempts}" if metric == "asr" and column.attempts > 1 else ""
    rows = [one.table.get((column.condition, metric)) for one in models]
    judges = dict.fromkeys(row.judge for row in rows if row is not None)
    return f"{_NAMES[metric]} {when}{any_of} (judge: {', '.join(judges)})"


def _cell(row: Row | None) -> str:
    if row is None:
        return "not measured"
    unscored = f", {silent}" if (silent := silence(row)) else ""
    if row.value is None or row.low is None or row.high is None:
        return f"not scored{unscored}"
    return f"{in_percent(row.value)} ({bounds(row.low, row.high)}), n = {row.n}{unscored}"
