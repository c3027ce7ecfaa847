"""Two measurements of the same questions, compared question by question, and the smallest difference that n of them show."""

from collections.abc import Sequence
from dataclasses import dataclass

from scipy.optimize import brentq
from scipy.stats import binomtest, norm

from safemirage.evaluation.metrics.intervals import clustered_mean, wilson_rate
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
    """Bounds of the 95 % interval, paired bootstrap over images."""
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


def compare(pairs: Sequence[Pair], *, seed: int = 0) -> PairedChange:
    """Raises ValueError where there is no pair, or one id stands twice."""
    ids = [pair.id for pair in pairs]
    if not ids or len(set(ids)) != len(ids):
        raise ValueError(
            f"pairs: {len(ids)} with {len(set(ids))} ids; needs at least one, ids once"
        )
    only_first = sum(pair.first and not pair.second for pair in pairs)
    only_second = sum(pair.second and not pair.first for pair in pairs)
    mean, low, high = clustered_mean(
        [float(pair.second) - float(pair.first) for pair in pairs],
        [pair.cluster for pair in pairs],
        seed=seed,
    )
    return PairedChange(
        n=len(pairs),
        only_first=only_first,
        only_second=only_second,
        difference=mean,
        low=low,
        high=high,
        p_value=mcnemar(only_first, only_second),
        flipped=tuple(pair.id for pair in pairs if pair.first != pair.second),
    )


def difference_interval(change: PairedChange, pairs: Sequence[Pair]) -> tuple[float, float]:
    """The bootstrap's bounds. Where all changed alike its draws have no spread, which is no certainty: what was seen in
    none of m images may be as frequent as Wilson's upper bound for 0 of m, and the difference be off by that much."""
    if len({pair.second - pair.first for pair in pairs}) > 1:
        return change.low, change.high
    unseen = wilson_rate(0, len({pair.cluster for pair in pairs})).high
    assert unseen is not None, "there is at least one image"
    return max(-1.0, change.difference - unseen), min(1.0, change.difference + unseen)


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
