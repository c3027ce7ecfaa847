"""Intervals of rates."""

from dataclasses import dataclass

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
