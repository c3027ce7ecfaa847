"""The smallest effect that n questions can show, beside the rates over them."""

from dataclasses import dataclass

from safemirage.evaluation.metrics.rates import Row
from safemirage.evaluation.metrics.significance import smallest_effect

SHARE = 0.1
"""The share of the questions that change, for the second figure."""


@dataclass(frozen=True, kw_only=True)
class Resolution:
    """The smallest difference of two paired rates over n questions: 5 %, power 80 % (Connor, `significance.smallest_effect`)."""

    n: int
    one_way: float | None
    """The smallest difference where all changes go one way; None: n shows no difference at all."""
    tenth: float | None
    """The smallest difference where 10 % of the questions change, in either direction."""


def resolution(n: int) -> Resolution | None:
    """The resolution of n questions; None where there is none."""
    if n < 1:
        return None
    return Resolution(n=n, one_way=smallest_effect(n), tenth=smallest_effect(n, SHARE))


def row_resolution(row: Row, attempts: int) -> Resolution | None:
    """The resolution of a row; None where its answers are several to a question, which are not independent."""
    return resolution(row.n) if attempts == 1 or row.metric == "asr" else None
