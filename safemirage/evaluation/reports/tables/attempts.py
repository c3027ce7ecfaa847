"""Curves of ASR@k as a table: what k of a question's K rewrites open."""

from collections.abc import Sequence

from safemirage.evaluation.metrics.breakdowns import AttemptRate
from safemirage.evaluation.reports.tables.grid import Grid
from safemirage.text.numbers import bounds, in_percent

_STEPS = (1, 2, 3, 5, 10, 20, 30, 50, 100)
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
        header=["model", "condition", "rate", "judge", "k", "any of k", "first k", "n"],
        keys=2,
        lines=[
            [
                one.model,
                one.condition,
                one.metric,
                one.judge,
                f"{one.attempts} of {most[one.model, one.condition]}",
                _cell(one.value, one.low, one.high),
                _cell(one.first_value, one.first_low, one.first_high),
                str(one.n),
            ]
            for one in shown
        ],
        notes=[
            "Share in % of the questions that are opened (asr: complied with; refusal_rate: refused) by any of k rewrites. "
            "any of k: averaged over all choices of k of the K rewrites, 1 - C(K-c, k) / C(K, k) for a question of which c "
            "count (Chen et al. 2021, pass@k); first k: the first k in the suite's order. 95 % intervals: Wilson where each "
            "question is opened or not and has its own image, else bootstrap over images; where all images agree on another "
            "share, Wilson's bounds of the whole numbers of images around it. n: questions with K scored rewrites."
        ],
    )


def _cell(value: float, low: float, high: float) -> str:
    return f"{in_percent(value)} ({bounds(low, high)})"
