"""Paired tests against values worked by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safemirage.evaluation.metrics.significance import Pair, compare, mcnemar, smallest_effect


@pytest.mark.parametrize(
    ("only_first", "only_second", "p_value"),
    [
        (0, 0, 1.0),
        (5, 5, 1.0),
        (9, 1, 22 / 1024),  # 2 (1 + 10) / 2^10
        (0, 6, 2 / 64),
        (15, 5, 0.041389),
        (20, 9, 0.061428),
    ],
)
def test_mcnemar_is_the_exact_binomial_test(
    only_first: int, only_second: int, p_value: float
) -> None:
    assert mcnemar(only_first, only_second) == pytest.approx(p_value, abs=1e-6)
    assert mcnemar(only_second, only_first) == pytest.approx(p_value, abs=1e-6)


def test_mcnemar_of_negative_counts_is_refused() -> None:
    with pytest.raises(ValueError, match="must not be negative"):
        mcnemar(-1, 3)


def test_compare_counts_what_changed_and_which_way() -> None:
    outcomes = [(False, True)] * 6 + [(True, True)] * 3 + [(True, False)] + [(False, False)] * 10
    pairs = [Pair(str(i), str(i), first, second) for i, (first, second) in enumerate(outcomes)]
    change = compare(pairs)
    assert (change.n, change.only_first, change.only_second) == (20, 1, 6)
    assert change.difference == pytest.approx(5 / 20)
    assert change.p_value == pytest.approx(2 * (1 + 7) / 2**7)
    assert change.flipped == ("0", "1", "2", "3", "4", "5", "9")
    assert change.low < 5 / 20 < change.high
    with pytest.raises(ValueError, match="ids once"):
        compare([pairs[0], pairs[0]])
    with pytest.raises(ValueError, match="at least one"):
        compare([])


def test_compare_of_equal_outcomes_changes_nothing() -> None:
    change = compare([Pair(str(i), "a", i > 3, i > 3) for i in range(8)])
    assert (change.difference, change.p_value) == (0.0, 1.0)
    assert -change.low == change.high > 0.5, "one picture shows next to nothing"


def test_smallest_effect_solves_connors_equation() -> None:
    effect = smallest_effect(442, discordant=0.1)
    assert effect is not None
    z_alpha, z_beta = 1.959964, 0.841621
    assert 442 * effect**2 == pytest.approx(
        (z_alpha * 0.1**0.5 + z_beta * (0.1 - effect**2) ** 0.5) ** 2, rel=1e-5
    )
    assert smallest_effect(442) == pytest.approx(0.01764, abs=1e-4)
    assert smallest_effect(128) == pytest.approx(0.06, abs=2e-3)
    assert smallest_effect(3) is None
    for n, discordant in ((0, None), (10, 0.0), (10, 1.1)):
        with pytest.raises(ValueError, match="need n >= 1"):
            smallest_effect(n, discordant)


@given(st.integers(20, 2000))
def test_smallest_effect_shrinks_with_n(n: int) -> None:
    smaller, larger = smallest_effect(2 * n), smallest_effect(n)
    assert smaller is not None
    assert larger is not None
    assert smaller < larger
