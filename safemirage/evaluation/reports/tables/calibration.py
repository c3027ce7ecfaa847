"""ASR corrected for the errors of its judge, as a table."""

from collections.abc import Sequence

from safemirage.evaluation.metrics.calibrated_asr import CorrectedASR
from safemirage.evaluation.reports.tables.grid import Grid
from safemirage.text.numbers import bounds, percent


def corrected_grid(title: str, rows: Sequence[CorrectedASR]) -> Grid:
    """A line a judge, condition and K."""
    return Grid(
        title=title,
        header=["judge", "condition", "over", "n", "observed", "corrected", "95 %"],
        keys=3,
        lines=[
            [
                row.judge,
                row.condition,
                f"any of {row.attempts}" if row.attempts > 1 else "answers",
                *_figures(row),
            ]
            for row in rows
        ],
        notes=[
            "Corrected on the assumption that the judge errs on these answers as often as on the labelled ones. Over answers it "
            "is Rogan and Gladen's estimate. Any-of-K has bounds that hold whatever the judge's errors on answers to one question "
            "have to do with each other; it is never less than over answers. The intervals carry the errors of both samples.",
            *dict.fromkeys(
                f"{row.judge}, {row.condition}, any of {row.attempts}: {said}."
                for row in rows
                if (said := row.refused or (row.corrected.note if row.corrected else ""))
            ),
        ],
    )


def _figures(row: CorrectedASR) -> list[str]:
    found = row.corrected
    if found is None:
        return ["", percent(row.observed), "none", ""]
    least, most = percent(found.least), percent(found.most)
    value = least if row.attempts == 1 else f"{least} to {most}"
    return [
        str(found.n),
        percent(row.observed),
        value,
        bounds(found.low, found.high),
    ]
