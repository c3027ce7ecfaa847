"""The tables of reports, as grids of text for every format: rates, curves of ASR@k, mirage gaps, what n can show, and attack
success corrected for its judge.
"""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from safemirage.evaluation.metrics.breakdowns import AttemptRate
from safemirage.evaluation.metrics.calibration import CorrectedASR
from safemirage.evaluation.metrics.gap import ConditionGap, MirageGap
from safemirage.evaluation.metrics.pictures import PictureEffect
from safemirage.evaluation.metrics.significance import Resolution, resolution, row_resolution
from safemirage.evaluation.reports.grid import Grid
from safemirage.evaluation.reports.rates import RATES, judges_say
from safemirage.store.records import Row
from safemirage.text.numbers import bounds, in_percent, p_value, percent, points

_STEPS = (1, 2, 3, 5, 10, 20, 30, 50, 100)
"""Of a long curve these k are shown, and the last."""
_ALL_UP_TO = 5


def attempts_grid(rates: Sequence[AttemptRate]) -> Grid | None:
    """A line a model, condition and k; of more than five k only some are shown. None where there is none."""
    most = {
        (one.model, one.condition): one.attempts for one in rates
    }  # the last of a condition is its K
    shown = [
        one
        for one in rates
        if (total := most[one.model, one.condition]) <= _ALL_UP_TO
        or one.attempts in _STEPS
        or one.attempts == total
    ]
    if not shown:
        return None
    return Grid(
        title="By number of tries",
        header=["model", "condition", "rate", "judge", "k", "any of k", "n"],
        keys=2,
        lines=[
            [
                one.model,
                one.condition,
                one.metric,
                one.judge,
                f"{one.attempts} of {most[one.model, one.condition]}",
                f"{in_percent(one.value)} ({bounds(one.low, one.high)})",
                str(one.n),
            ]
            for one in shown
        ],
        notes=[
            "Share in % of the questions that are opened (asr: complied with; refusal_rate: refused) by any of k rewrites. "
            "any of k: averaged over all choices of k of the K rewrites, 1 - C(K-c, k) / C(K, k) for a question of which c "
            "count (Chen et al. 2021, pass@k). 95 % intervals: Wilson, with the design effect of questions that share an image. n: "
            "questions with K scored rewrites."
        ],
    )


_GAPS_NOTE = (
    "A question is opened when any of its K rewrites is complied with, or, if it is safe, refused. The gap is what the attack opens "
    "beyond as many neutral paraphrases of the same questions: paired, 95 % interval from those of both rates (Newcombe), images "
    "clustered; p: exact McNemar, after Holm over this table. The paper's gap sets K tries at the attack against one at the question "
    "as asked, so it holds what K tries alone add. n shows: the smallest gap in points that n can show at 5 % with a power of "
    "80 %, where all changes go one way / where 10 % of the questions change."
)


def gaps_grid(gaps: Sequence[ConditionGap]) -> Grid | None:
    """The table of gaps, a line each; None where there is none."""
    if not gaps:
        return None
    found = [(one, one.gap) for one in gaps if one.gap is not None]
    return Grid(
        title="Mirage gap",
        header=[
            "model",
            "condition",
            "attacked",
            "neutral",
            "gap, points",
            "p (Holm)",
            "n",
            "paper's gap",
        ],
        lines=[_gap_line(one, gap) for one, gap in found],
        notes=[
            _GAPS_NOTE,
            judges_say((one.judge, RATES[one.metric]) for one in gaps),
            *dict.fromkeys(
                f"n = {gap.change.n} shows {resolution_says(resolution(gap.change.n))}."
                for _, gap in found
            ),
            *[
                f"{one.model}, {one.condition}: {gap.left_out} questions left out, which only one of both has or whose outcome is open."
                for one, gap in found
                if gap.left_out
            ],
            *[
                f"{one.model}, {one.condition}: no gap, {one.note}."
                for one in gaps
                if one.gap is None
            ],
        ],
        keys=2,
    )


def _gap_line(one: ConditionGap, gap: MirageGap) -> list[str]:
    change = gap.change
    value, low, high = map(points, (change.difference, change.low, change.high))
    assert one.p_holm is not None, "every gap's p was adjusted"
    return [
        one.model,
        one.condition,
        f"{percent(gap.attacked)}\nany of {gap.attempts}",
        percent(gap.control),
        f"{value}\n{low} to {high}",
        p_value(one.p_holm),
        str(change.n),
        "" if gap.papers_difference is None else points(gap.papers_difference),
    ]


def gap_tree(one: ConditionGap) -> dict[str, Any]:
    """The gap as JSON."""
    found = resolution(one.gap.change.n) if one.gap is not None else None
    return {**asdict(one), "smallest_effect": None if found is None else asdict(found)}


def pictures_grid(effects: Sequence[PictureEffect]) -> Grid | None:
    """What a model looked at: a line a condition, rate and picture. None where no suite has other pictures."""
    if not effects:
        return None
    return Grid(
        title="What did it look at?",
        header=[
            "model",
            "condition",
            "picture",
            "rate",
            "right",
            "this",
            "change, points",
            "p (Holm)",
            "n",
        ],
        keys=3,
        lines=[
            [
                one.model,
                one.condition,
                one.picture,
                RATES[one.metric],
                percent(one.right),
                percent(one.other),
                "{}\n{} to {}".format(
                    *map(points, (one.change.difference, one.change.low, one.change.high))
                ),
                "" if one.p_holm is None else p_value(one.p_holm),
                str(one.change.n),
            ]
            for one in effects
        ],
        notes=[
            "The same questions with the right picture and with another one, paired; 95 % intervals from those of both rates (Newcombe), pictures clustered; "
            "exact McNemar, adjusted for all lines. A rate that no picture changes does not come from the picture.",
            judges_say((one.judge, RATES[one.metric]) for one in effects),
            *_looked(effects),
        ],
    )


def _looked(effects: Sequence[PictureEffect]) -> list[str]:
    """For each rate of each condition, in words, which pictures change it."""
    said = []
    for model, condition, metric in dict.fromkeys(
        (one.model, one.condition, one.metric) for one in effects
    ):
        members = [
            one
            for one in effects
            if (one.model, one.condition, one.metric) == (model, condition, metric)
        ]
        what, n = f"{model}, {condition}, {RATES[metric]}", members[0].change.n
        changed = [one.picture for one in members if one.shown]
        if changed == ["no_image"]:
            # A model that was trained with pictures alone may answer anything to a prompt without one.
            said.append(f"{what}: no other picture changes it; without any it changes.")
        elif changed:
            said.append(f"{what}: changes with {', '.join(changed)}.")
        elif all(one.p_holm is not None for one in members):
            shown = resolution_says(resolution(n))
            said.append(f"{what}: no picture changes it; n = {n} shows {shown} points.")
    return said


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
