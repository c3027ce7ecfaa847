"""A comparison on screen and in files: compare.html, compare.md, compare.tex and compare.json."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safemirage.evaluation.metrics.changes import Change, Comparison, Flip
from safemirage.evaluation.metrics.gap import ConditionGap
from safemirage.evaluation.metrics.significance import resolution
from safemirage.evaluation.reports.grid import Grid, to_latex, to_markdown
from safemirage.evaluation.reports.page import image_uri, render
from safemirage.evaluation.reports.rates import RATES, judges_say
from safemirage.evaluation.reports.tables import gap_tree, gaps_grid, resolution_says
from safemirage.evaluation.types import EvaluatedSample, evaluated_tree
from safemirage.files import write_text
from safemirage.store.database import Store
from safemirage.text.numbers import p_value, percent, points

_TEMPLATE = "compare.html.j2"
METHOD = (
    "Rates are over the questions or answers that both evaluations have and that are scored in both. The interval is "
    "that of the difference: 95 %, from those of both rates (Newcombe), images clustered. p: exact McNemar, "
    "two-sided, adjusted by Holm for "
    "all tests of this comparison. A rate over several rewrites a question has no p, because they are not independent. n shows: "
    "the smallest difference in points that n can show at 5 % with a power of 80 %, where all changes go one way / where "
    "10 % of the questions change."
)


def comparison_grid(comparison: Comparison) -> Grid:
    """A line a change: rates before and after, the difference, p. What all lines share stands in the title and in the notes."""
    first, *others = comparison.evaluations
    changes = comparison.changes
    counts = sorted({change.n for change in changes if change.p_value is not None})
    several = len(others) > 1
    return Grid(
        title=f"Changes from {first.name}" + ("" if several else f" to {others[0].name}"),
        header=[
            *(["to"] if several else []),
            "rate",
            "n",
            "before",
            "after",
            "difference, points",
            "p (Holm)",
            "flipped",
        ],
        lines=[[*([change.second] if several else []), *_cells(change)] for change in changes],
        notes=[
            judges_say((change.judge, RATES[change.metric]) for change in changes),
            METHOD,
            *[f"n = {count} shows {resolution_says(resolution(count))}." for count in counts],
            *comparison.notes,
            f"Evaluations: {'; '.join(f'{one.name} is {one.id}' for one in comparison.evaluations)}.",
        ],
        keys=2 if several else 1,
    )


def _cells(change: Change) -> list[str]:
    return [
        f"{RATES[change.metric]}\n{change.condition}",
        str(change.n),
        percent(change.first_value),
        percent(change.second_value),
        f"{points(change.difference)}\n{points(change.low)} to {points(change.high)}",
        "" if change.p_holm is None else p_value(change.p_holm),
        str(len(change.flips)),
    ]


def comparison_grids(comparison: Comparison, gaps: Sequence[ConditionGap]) -> list[Grid]:
    """The changes and, where the evaluations have a control, their mirage gaps."""
    grid = gaps_grid(gaps)
    return [comparison_grid(comparison), *([grid] if grid is not None else [])]


def write_comparison(
    store: Store,
    comparison: Comparison,
    gaps: Sequence[ConditionGap],
    folder: Path,
    *,
    flips_shown: int = 20,
) -> list[Path]:
    """Writes the four files into `folder`, each put in place whole; returns them.

    Args:
        flips_shown: flipped samples of each change on the page; the JSON has all of them.
    """
    grids = comparison_grids(comparison, gaps)
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
