"""A comparison on screen and in files: compare.html, compare.md, compare.tex and compare.json."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safemirage.evaluation.metrics.changes import Change, Comparison, Flip
from safemirage.evaluation.metrics.power import resolution
from safemirage.evaluation.metrics.rates import grouped
from safemirage.evaluation.reports.page import image_uri, render
from safemirage.evaluation.reports.tables.gap import (
    ConditionGap,
    condition_gaps,
    gap_tree,
    gaps_grid,
)
from safemirage.evaluation.reports.tables.grid import Grid, to_latex, to_markdown
from safemirage.evaluation.reports.tables.power import resolution_says
from safemirage.evaluation.samples import EvaluatedSample, evaluated_tree
from safemirage.files import write_text
from safemirage.store.database import Store
from safemirage.text.numbers import p_value, percent, points

_TEMPLATE = "compare.html.j2"
METHOD = (
    "Rates are over the questions or answers that both evaluations have and that are scored in both. The interval is "
    "that of the difference: 95 %, paired bootstrap over images; Wilson's bound where all changed alike. p: exact McNemar, "
    "two-sided; p (Holm): adjusted for "
    "all tests of this comparison. A rate over several rewrites a question has no p, because they are not independent. n shows: "
    "the smallest difference in points that n can show at 5 % with a power of 80 %, where all changes go one way / where "
    "10 % of the questions change."
)


def comparison_grid(comparison: Comparison) -> Grid:
    """A line a change: rates before and after, the difference, p-values."""
    first = comparison.evaluations[0]
    lines = [
        [
            f"{change.first} → {change.second}",
            change.condition,
            change.metric,
            change.judge,
            f"{change.n} {change.unit}",
            percent(change.first_value),
            percent(change.second_value),
            f"{points(change.difference)} ({points(change.low)} to {points(change.high)})",
            _p(change.p_value),
            _p(change.p_holm),
            str(len(change.flips)),
            resolution_says(resolution(change.n)) if change.p_value is not None else "",
        ]
        for change in comparison.changes
    ]
    header = [
        "models",
        "condition",
        "metric",
        "judge",
        "n",
        "before",
        "after",
        "difference, points",
    ]
    return Grid(
        title=f"Changes from {first.name}",
        header=[*header, "p", "p (Holm)", "flipped", "n shows"],
        lines=lines,
        notes=[METHOD, *comparison.notes, f"Evaluations: {_ids(comparison)}."],
        keys=3,
    )


def screen_grid(comparison: Comparison) -> Grid:
    """The same in the columns that 80 characters hold: what all lines share stands in the title and in the notes."""
    first, *others = comparison.evaluations
    title, header = f"Changes from {first.name}", ["condition", "metric"]
    if len(others) == 1:
        title += f" to {others[0].name}"
    else:
        header = ["to", *header]
    lines = [
        [
            *([change.second] if len(others) > 1 else []),
            change.condition.replace("_", " "),
            change.metric.replace("_", " "),
            str(change.n),
            percent(change.first_value),
            percent(change.second_value),
            f"{points(change.difference)}\n{points(change.low)} to {points(change.high)}",
            _p(change.p_holm),
            str(len(change.flips)),
        ]
        for change in comparison.changes
    ]
    judges = {
        judge: ", ".join(dict.fromkeys(change.metric.replace("_", " ") for change in members))
        for judge, members in grouped(comparison.changes, lambda change: change.judge).items()
    }
    counts = sorted({change.n for change in comparison.changes if change.p_value is not None})
    powers = [f"n = {count} shows {resolution_says(resolution(count))}" for count in counts]
    return Grid(
        title=title,
        header=[*header, "n", "before", "after", "difference, points", "p (Holm)", "flipped"],
        lines=lines,
        notes=[
            f"Judges: {'; '.join(f'{judge} ({measured})' for judge, measured in judges.items())}.",
            METHOD,
            *([f"{'; '.join(powers)}."] if powers else []),
            *comparison.notes,
            f"Evaluations: {_ids(comparison)}.",
        ],
        keys=len(header),
    )


def screen_grids(comparison: Comparison) -> list[Grid]:
    """For the screen: the changes and, where the evaluations have a control, their mirage gaps."""
    gaps = gaps_grid(condition_gaps(comparison.evaluations))
    return [screen_grid(comparison), *([gaps] if gaps is not None else [])]


def _grids(comparison: Comparison, gaps: Sequence[ConditionGap]) -> list[Grid]:
    grid = gaps_grid(gaps)
    return [comparison_grid(comparison), *([grid] if grid is not None else [])]


def write_comparison(
    store: Store, comparison: Comparison, folder: Path, *, flips_shown: int = 20
) -> list[Path]:
    """Writes the four files into `folder`, each put in place whole; returns them.

    Args:
        flips_shown: flipped samples of each change on the page; the JSON has all of them.
    """
    gaps = condition_gaps(
        comparison.evaluations
    )  # once for all files: thousands of bootstrap draws
    grids = _grids(comparison, gaps)
    texts = {
        "compare.html": _page(store, comparison, grids, flips_shown),
        "compare.md": "\n".join(to_markdown(grid) for grid in grids),
        "compare.tex": "\n".join(to_latex(grid) for grid in grids),
        "compare.json": json.dumps(_tree(comparison, gaps), indent=1, allow_nan=False),
    }
    for name, text in texts.items():
        write_text(folder / name, text)
    return [folder / name for name in texts]


def _tree(comparison: Comparison, gaps: Sequence[ConditionGap]) -> dict[str, Any]:
    """The comparison as JSON, with every flipped sample."""
    return {
        "evaluations": [{"name": one.name, "id": one.id} for one in comparison.evaluations],
        "method": METHOD,
        "notes": list(comparison.notes),
        "mirage_gaps": [gap_tree(gap) for gap in gaps],
        "changes": [
            {
                **{key: value for key, value in asdict(change).items() if key != "flips"},
                "flips": [_flip_tree(flip) for flip in change.flips],
            }
            for change in comparison.changes
        ],
    }


def _flip_tree(flip: Flip) -> dict[str, Any]:
    return {
        "unit": flip.unit,
        "counts_now": flip.counts_now,
        "first": [evaluated_tree(sample) for sample in flip.first],
        "second": [evaluated_tree(sample) for sample in flip.second],
    }


def _page(store: Store, comparison: Comparison, grids: Sequence[Grid], flips_shown: int) -> str:
    shown = [
        {
            "change": change,
            "flips": [_shown(store, change, flip) for flip in change.flips[:flips_shown]],
            "left_out": max(0, len(change.flips) - flips_shown),
        }
        for change in comparison.changes
        if change.flips
    ]
    return render(_TEMPLATE, grid=grids[0], gaps=grids[1:], comparison=comparison, shown=shown)


def _shown(store: Store, change: Change, flip: Flip) -> dict[str, Any]:
    pairs = zip(flip.first, flip.second, strict=True)
    return {
        "unit": flip.unit,
        "counts_now": flip.counts_now,
        "uri": image_uri(store, flip.first[0].image),
        "questions": [
            {"question": one.question, "answers": _answers(change, one, other)}
            for one, other in pairs
        ],
    }


def _answers(
    change: Change, first: EvaluatedSample, second: EvaluatedSample
) -> Sequence[dict[str, Any]]:
    return [
        {"model": name, "sample": sample, "verdict": sample.verdict(change.judge)}
        for name, sample in ((change.first, first), (change.second, second))
    ]


def _ids(comparison: Comparison) -> str:
    return "; ".join(f"{one.name} is {one.id}" for one in comparison.evaluations)


def _p(value: float | None) -> str:
    return "" if value is None else p_value(value)
