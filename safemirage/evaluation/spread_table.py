"""Rates over seeds as a table: a line a model, in each cell the median and the range."""

from collections.abc import Sequence

from safemirage.evaluation.grid import Grid
from safemirage.evaluation.spread import Spread

_NAMES = {
    "asr": "ASR",
    "degenerate_rate": "degenerate",
    "refusal_rate": "refused",
    "useful_rate": "useful",
    "accuracy": "accuracy",
}


def spread_grid(title: str, found: Sequence[Spread]) -> Grid:
    """ASR of unsafe cases, refusals and useful answers of safe ones, degenerate answers of both.

    A cell is the median and in brackets the range, in %; a range that is one value is left out.
    """
    unsafe = {one.case for one in found if one.metric == "asr"}
    shown = [one for one in found if one.metric in _NAMES and _belongs(one, unsafe)]
    columns = list(dict.fromkeys((one.metric, one.case) for one in shown))
    columns.sort(key=lambda column: list(_NAMES).index(column[0]))  # stable: cases keep their order
    cells = {(one.model, one.metric, one.case): _cell(one) for one in shown}
    seeds = list(dict.fromkeys(seed for one in shown for seed in (*one.values, *one.missing)))
    judges = dict.fromkeys(f"{_NAMES[one.metric]}: {one.judge}" for one in shown)
    notes = [
        f"Median over the seeds {', '.join(seeds)} in %, in brackets the range from the lowest to the highest seed; "
        f"one number where all seeds agree. Judges: {'; '.join(judges)}.",
        *dict.fromkeys(
            f"{one.model}, {_NAMES[one.metric]} of {one.case}: not measured on seed {', '.join(one.missing)}."
            for one in shown
            if one.missing
        ),
    ]
    return Grid(
        title=title,
        header=[
            "model",
            *(f"{_NAMES[metric]}: {case.replace('_', ' ')}" for metric, case in columns),
        ],
        lines=[
            [model, *(cells.get((model, *column), "") for column in columns)]
            for model in dict.fromkeys(one.model for one in shown)
        ],
        notes=notes,
    )


def _belongs(one: Spread, unsafe: set[str]) -> bool:
    """Refusals and useful answers are shown of safe cases alone."""
    return one.metric in ("asr", "degenerate_rate", "accuracy") or one.case not in unsafe


def _cell(one: Spread) -> str:
    if one.median is None or one.low is None or one.high is None:
        return "not scored"
    low, middle, high = (_percent(value) for value in (one.low, one.median, one.high))
    return middle if low == high else f"{middle} ({low} to {high})"


def _percent(value: float) -> str:
    return f"{100 * value:.1f}".removesuffix(".0")
