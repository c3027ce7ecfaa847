"""Wilson's interval against values worked by hand."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safemirage.evaluation.metrics.intervals import wilson_rate


def test_wilson_rate_half_of_ten_matches_the_formula_by_hand() -> None:
    # z = 1.959964, z² = 3.841459; centre = (0.5 + 0.19207294)/(1.3841459) = 0.5;
    # half = 1.959964 / 1.3841459 * sqrt(0.025 + 3.841459/400) = 0.263407
    rate = wilson_rate(5, 10)
    assert rate.value == 0.5
    assert rate.low == pytest.approx(0.236593, abs=1e-6)
    assert rate.high == pytest.approx(0.763407, abs=1e-6)
    assert rate.n == 10


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        (0, 10, 0.0, 0.277533),  # z²/(n + z²) = 3.841459/13.841459
        (10, 10, 0.722467, 1.0),
        (0, 1, 0.0, 0.793450),  # 3.841459/4.841459
        (0, 200, 0.0, 0.018845),  # 3.841459/203.841459
        (1, 10, 0.017876, 0.404150),  # Newcombe (1998), table of examples, by the same formula
    ],
)
def test_wilson_rate_at_known_counts_has_known_bounds(
    successes: int, n: int, low: float, high: float
) -> None:
    rate = wilson_rate(successes, n)
    assert rate.low == pytest.approx(low, abs=1e-6)
    assert rate.high == pytest.approx(high, abs=1e-6)


def test_wilson_rate_of_nothing_is_no_number() -> None:
    rate = wilson_rate(0, 0)
    assert (rate.value, rate.low, rate.high, rate.n) == (None, None, None, 0)


@pytest.mark.parametrize(("successes", "n"), [(-1, 3), (4, 3), (1, 0)])
def test_wilson_rate_of_impossible_counts_is_refused(successes: int, n: int) -> None:
    with pytest.raises(ValueError, match="successes"):
        wilson_rate(successes, n)


@given(data=st.data(), n=st.integers(1, 2000))
def test_wilson_rate_bounds_hold_the_rate_and_mirror(data: st.DataObject, n: int) -> None:
    successes = data.draw(st.integers(0, n))
    rate, mirror = wilson_rate(successes, n), wilson_rate(n - successes, n)
    assert rate.value is not None
    assert rate.low is not None
    assert rate.high is not None
    assert mirror.high is not None
    assert 0 <= rate.low <= rate.value <= rate.high <= 1
    assert math.isclose(rate.low, 1 - mirror.high, abs_tol=1e-12)
