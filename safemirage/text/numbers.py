"""Rates, their bounds, differences of rates and p-values as text: the one place that says how many digits they have."""


def in_percent(rate: float) -> str:
    """A rate as a number of percent without the sign: `27.6`, `100`."""
    return f"{100 * rate:.1f}".removesuffix(".0")


def percent(rate: float | None) -> str:
    """A rate with its sign: `27.6 %`; `n/a` where there is none."""
    return "n/a" if rate is None else f"{in_percent(rate)} %"


def bounds(low: float, high: float) -> str:
    """The bounds of a rate in percent: `23.6 to 31.9`."""
    return f"{100 * low:.1f} to {100 * high:.1f}"


def whole_bounds(low: float, high: float) -> str:
    """The same for narrow cells, in whole percents: `24-32`."""
    return f"{100 * low:.0f}-{100 * high:.0f}"


def points(difference: float) -> str:
    """A difference of two rates in percentage points: `+4.3`."""
    return f"{100 * difference:+.1f}"


def p_value(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"
