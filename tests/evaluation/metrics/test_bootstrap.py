"""The clustered bootstrap: clusters are drawn whole, so that copies of an answer add nothing."""

import pytest

from safemirage.evaluation.metrics.intervals import Rate, clustered_mean, share_rate, wilson_rate


def bounds(rate: Rate) -> tuple[float, float]:
    assert rate.low is not None
    assert rate.high is not None
    return rate.low, rate.high


def test_clustered_mean_of_tripled_answers_has_the_interval_of_single_ones() -> None:
    single = [float(index % 4 == 0) for index in range(40)]
    names = [str(index) for index in range(40)]
    once = clustered_mean(single, names)
    tripled = clustered_mean(
        [item for item in single for _ in range(3)], [n for n in names for _ in range(3)]
    )
    assert once == tripled
    # Near the normal interval 0.25 ± 1.96 √(0.25·0.75/40) = 0.25 ± 0.134; a draw's share is k/40.
    assert once == pytest.approx((0.25, 0.116, 0.384), abs=0.03)


def test_share_rate_is_wider_than_one_that_takes_answers_as_independent() -> None:
    successes = [float(index < 30) for index in range(120)]
    low, high = bounds(share_rate(successes, [str(index // 3) for index in range(120)]))
    independent_low, independent_high = bounds(wilson_rate(30, 120))
    assert low < independent_low
    assert high > independent_high


def test_share_rate_of_answers_with_a_cluster_each_is_wilsons() -> None:
    successes = [float(index < 30) for index in range(120)]
    assert share_rate(successes, [str(index) for index in range(120)]) == wilson_rate(30, 120)


@pytest.mark.parametrize("value", [1.0, 0.0])
def test_share_rate_without_spread_has_wilsons_interval_over_clusters(value: float) -> None:
    rate = share_rate([value] * 30, [str(index // 3) for index in range(30)])
    wilson = wilson_rate(10 if value else 0, 10)
    assert (rate.value, rate.low, rate.high, rate.n) == (value, wilson.low, wilson.high, 30)


@pytest.mark.parametrize(
    "shares", [[1.0, 0.0, 0.0] * 48, [1 / 3, 1 / 3, 1 / 3] * 48], ids=["answers", "questions"]
)
def test_share_rate_where_all_clusters_agree_between_0_and_1_claims_no_certainty(
    shares: list[float],
) -> None:
    rate = share_rate(shares, [str(index // 3) for index in range(144)])
    assert rate.value == pytest.approx(1 / 3)
    assert bounds(rate) == pytest.approx(bounds(wilson_rate(16, 48)))


def test_share_rate_of_nothing_is_no_number() -> None:
    assert share_rate([], []).value is None


def test_clustered_mean_needs_one_cluster_a_value() -> None:
    with pytest.raises(ValueError, match="2 values in 1 clusters"):
        clustered_mean([1.0, 0.0], ["a"])
    assert clustered_mean([1.0, 0.0], ["a", "a"]) == (0.5, 0.5, 0.5)
