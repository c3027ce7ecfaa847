"""Rates and their intervals: Wilson's, and the bootstrap clustered by image for answers that share a picture.

Rewrites of one question are not independent, so the bootstrap draws whole clusters: 95 % percentile intervals of scipy's
bootstrap, 9,999 draws, fixed seed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, floor

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95


@dataclass(frozen=True, kw_only=True)
class Rate:
    value: float | None
    """Share of successes in 0..1; None when there was nothing to count."""
    low: float | None
    high: float | None
    n: int


def wilson_rate(successes: int, n: int) -> Rate:
    """successes / n with Wilson's score interval at 95 %, no continuity correction.

    Wilson (1927): centre (p + z²/2n) / (1 + z²/n), half width z √(p(1-p)/n + z²/4n²) / (1 + z²/n), z = 1.96.
    It assumes n independent trials.

    Raises:
        ValueError: not 0 <= successes <= n.
    """
    if not 0 <= successes <= n:
        raise ValueError(f"successes: {successes!r} of n={n!r} is not a rate")
    if n == 0:
        return Rate(value=None, low=None, high=None, n=0)
    from scipy.stats import binomtest  # on use: it takes seconds, and rates are imported everywhere

    interval = binomtest(successes, n).proportion_ci(confidence_level=CONFIDENCE, method="wilson")
    # At 0 of n and n of n the bound is exact; floating point leaves 1e-17 beside it.
    low = 0.0 if successes == 0 else float(interval.low)
    high = 1.0 if successes == n else float(interval.high)
    return Rate(value=successes / n, low=low, high=high, n=n)


DRAWS = 9999
_SAME = 1e-9
"""What sums of floating-point numbers may differ by."""
_BATCH = 500
"""Draws at a time: 500 draws of 1,000 clusters are 4 MB."""

Array = NDArray[np.float64]


def share_rate(shares: Sequence[float], clusters: Sequence[str]) -> Rate:
    """The mean of shares in 0..1 (successes are 0 or 1), n their number, with an interval that fits them.

    Wilson's where each share is 0 or 1 and has a cluster of its own; else the bootstrap over clusters. Where all clusters
    have one mean the draws have no spread: the bounds are then Wilson's over the clusters, of the whole numbers of
    clusters below and above that mean.
    """
    distinct = len(set(clusters))
    if set(shares) <= {0.0, 1.0} and distinct == len(shares):
        return wilson_rate(int(sum(shares)), len(shares))
    sums, counts = cluster_sums(shares, clusters)
    mean = float(sums.sum() / counts.sum())
    if np.ptp(sums / counts) < _SAME:
        low = wilson_rate(floor(mean * distinct + _SAME), distinct).low
        high = wilson_rate(ceil(mean * distinct - _SAME), distinct).high
        return Rate(value=mean, low=low, high=high, n=len(shares))
    _, drawn_low, drawn_high = clustered_mean(shares, clusters)
    return Rate(value=mean, low=drawn_low, high=drawn_high, n=len(shares))


def clustered_mean(
    values: Sequence[float], clusters: Sequence[str], *, seed: int = 0
) -> tuple[float, float, float]:
    """The mean of `values` (one or more) and the bounds of its interval; draws whole clusters.

    One cluster alone gives no spread: its bounds are the mean.
    """
    sums, counts = cluster_sums(values, clusters)
    mean = float(sums.sum() / counts.sum())
    if len(sums) == 1:
        return mean, mean, mean
    low, high = resampled((sums, counts), _ratio, seed=seed)
    return mean, low, high


def cluster_sums(values: Sequence[float], clusters: Sequence[str]) -> tuple[Array, Array]:
    """The sum of the values and their number in each cluster, clusters in order of appearance.

    Raises:
        ValueError: nothing is given, or not one cluster a value.
    """
    if not values or len(values) != len(clusters):
        raise ValueError(
            f"{len(values)} values in {len(clusters)} clusters: need one cluster a value, and values"
        )
    places = {name: place for place, name in enumerate(dict.fromkeys(clusters))}
    where = np.array([places[name] for name in clusters])
    sums = np.bincount(where, weights=np.asarray(values, dtype=np.float64))
    return sums.astype(np.float64), np.bincount(where).astype(np.float64)


def resampled(
    data: Sequence[Array], statistic: Callable[..., Array], *, seed: int
) -> tuple[float, float]:
    """Percentile bounds of a statistic over clusters; `statistic` gets the arrays and `axis`."""
    from scipy.stats import bootstrap  # on use: it takes seconds, and rates are imported everywhere

    result = bootstrap(
        tuple(data),
        statistic,
        paired=True,
        vectorized=True,
        n_resamples=DRAWS,
        batch=_BATCH,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def _ratio(sums: Array, counts: Array, axis: int = -1) -> Array:
    return np.asarray(sums.sum(axis=axis) / counts.sum(axis=axis))
