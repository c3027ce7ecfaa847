"""Two measurements of the same questions, compared question by question, and the smallest difference that n of them show."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.stats import binomtest, norm

from safemirage.evaluation.metrics.intervals import cluster_sums, clustered_share
from safemirage.store.records import Row

ALPHA = 0.05
POWER = 0.8


@dataclass(frozen=True)
class Pair:
    """One question with two outcomes."""

    id: str
    cluster: str
    """The image; questions about one image are drawn together."""
    first: bool
    second: bool


@dataclass(frozen=True, kw_only=True)
class PairedChange:
    """The change from the first measurement to the second, in shares of the n questions that have both."""

    n: int
    only_first: int
    only_second: int
    difference: float
    """Second minus first."""
    low: float
    high: float
    """Bounds of the 95 % interval, see `difference_bounds`."""
    p_value: float
    """Exact McNemar, two-sided."""
    flipped: tuple[str, ...]
    """The ids whose outcome changed."""


def mcnemar(only_first: int, only_second: int) -> float:
    """Two-sided exact p-value that the questions which changed were as likely to change either way.

    McNemar (1947), exact: a binomial test of the smaller count among all that changed, p = 1/2. 1 when none changed.

    Raises:
        ValueError: a count is negative.
    """
    if min(only_first, only_second) < 0:
        raise ValueError(f"counts {only_first!r} and {only_second!r} must not be negative")
    changed = only_first + only_second
    return float(binomtest(only_first, changed).pvalue) if changed else 1.0


def compare(pairs: Sequence[Pair]) -> PairedChange:
    """Raises ValueError where there is no pair, or one id stands twice."""
    ids = [pair.id for pair in pairs]
    if not ids or len(set(ids)) != len(ids):
        raise ValueError(
            f"pairs: {len(ids)} with {len(set(ids))} ids; needs at least one, ids once"
        )
    only_first = sum(pair.first and not pair.second for pair in pairs)
    only_second = sum(pair.second and not pair.first for pair in pairs)
    low, high = difference_bounds(pairs)
    return PairedChange(
        n=len(pairs),
        only_first=only_first,
        only_second=only_second,
        difference=(only_second - only_first) / len(pairs),
        low=low,
        high=high,
        p_value=mcnemar(only_first, only_second),
        flipped=tuple(pair.id for pair in pairs if pair.first != pair.second),
    )


def difference_bounds(pairs: Sequence[Pair]) -> tuple[float, float]:
    """The 95 % interval of second minus first, from the intervals of both rates and the correlation of the two over images.

    Newcombe (1998), "Improved confidence intervals for the difference between binomial proportions based on paired data",
    method 10; Zou and Donner (2008) for rates with any interval that fits them, here `clustered_share`. Unlike a bootstrap
    it claims no certainty where all changed alike, and it holds at low rates.
    """
    clusters = [pair.cluster for pair in pairs]
    first, counts = cluster_sums([float(pair.first) for pair in pairs], clusters)
    second, _ = cluster_sums([float(pair.second) for pair in pairs], clusters)
    p, p_low, p_high = clustered_share(first, counts)
    q, q_low, q_high = clustered_share(second, counts)
    one, other = first - p * counts, second - q * counts
    spread = float(np.sqrt((one**2).sum() * (other**2).sum()))
    alike = float((one * other).sum()) / spread if spread > 0 else 0.0

    def width(a: float, b: float) -> float:
        return float(np.sqrt(max(0.0, a * a + b * b - 2 * alike * a * b)))

    low = q - p - width(q - q_low, p_high - p)
    return max(-1.0, low), min(1.0, q - p + width(q_high - q, p - p_low))


def smallest_effect(n: int, discordant: float | None = None) -> float | None:
    """The smallest difference of two paired rates that n questions show at 5 % with a power of 80 %.

    Connor (1987): n d² = (z_a √s + z_b √(s - d²))², where s is the share of questions that change and d the
    difference. `discordant` is s, known from a pilot; None takes the case that needs fewest questions, all changes in
    one direction (s = d). None comes back where n is too small for any difference.

    Raises:
        ValueError: n < 1, or `discordant` outside (0, 1].
    """
    if n < 1 or (discordant is not None and not 0 < discordant <= 1):
        raise ValueError(f"n={n!r}, discordant={discordant!r}: need n >= 1 and a share in (0, 1]")
    z_alpha, z_beta = float(norm.isf(ALPHA / 2)), float(norm.isf(1 - POWER))

    def excess(d: float) -> float:
        share = d if discordant is None else discordant
        return z_alpha * share**0.5 + z_beta * max(share - d * d, 0.0) ** 0.5 - d * n**0.5

    most = 1.0 if discordant is None else discordant
    if excess(most) > 0:
        return None
    return float(brentq(excess, 1e-9, most))


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
