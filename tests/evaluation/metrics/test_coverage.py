"""Intervals of answers that share a picture: worked by hand, and how often they hold the truth."""

import numpy as np
import pytest

from safemirage.evaluation.metrics.intervals import Rate, share_rate, wilson_rate
from safemirage.evaluation.metrics.significance import Pair, difference_bounds
from tests.benchmarks.bench_coverage import World, threshold_of


def bounds(rate: Rate) -> tuple[float, float]:
    assert rate.low is not None
    assert rate.high is not None
    return rate.low, rate.high


def test_share_rate_of_answers_with_a_cluster_each_is_wilsons() -> None:
    successes = [float(index < 30) for index in range(120)]
    assert share_rate(successes, [str(index) for index in range(120)]) == wilson_rate(30, 120)


def test_share_rate_is_wilsons_of_as_many_independent_answers_as_they_are_worth() -> None:
    # 40 pictures of 3 answers that agree, 10 of them successes, and one more picture of the rarer kind: 33 of 123;
    # residuals 3 - 3p and -3p, variance 41/40 (11 (3 - 3p)² + 30 (3p)²) / 123² = 0.0049078, p = 0.26829;
    # design effect 123 * 0.0049078 / (p (1 - p)) = 3.075, so 120 answers are worth 39.02.
    successes = [float(index < 30) for index in range(120)]
    low, high = bounds(share_rate(successes, [str(index // 3) for index in range(120)]))
    assert (low, high) == pytest.approx((0.14086, 0.40395), abs=1e-4)
    independent_low, independent_high = bounds(wilson_rate(30, 120))
    assert low < independent_low
    assert high > independent_high


@pytest.mark.parametrize("value", [1.0, 0.0])
def test_share_rate_without_spread_counts_pictures_not_answers(value: float) -> None:
    rate = share_rate([value] * 30, [str(index // 3) for index in range(30)])
    # As 30 answers are worth 30 / 3.3: one more picture, all of whose answers differ, and m / (m - 1) of 11 pictures.
    width = bounds(wilson_rate(9 if value else 0, 9))
    assert rate.value == value
    assert bounds(rate) == pytest.approx(width, abs=0.004)


def test_share_rate_where_all_clusters_agree_between_0_and_1_claims_no_more_than_its_tries() -> (
    None
):
    shares = [1 / 3] * 48
    once = share_rate(shares, [str(index) for index in range(48)])
    assert bounds(once) == pytest.approx(bounds(wilson_rate(16, 48)))
    thrice = share_rate(shares, [str(index) for index in range(48)], tries=3)
    assert bounds(thrice) == pytest.approx(bounds(wilson_rate(48, 144)))


def test_share_rate_of_nothing_is_no_number_and_needs_one_cluster_a_value() -> None:
    assert share_rate([], []).value is None
    with pytest.raises(ValueError, match="2 values in 1 clusters"):
        share_rate([1.0, 0.0], ["a"])


def test_difference_of_independent_rates_is_newcombes() -> None:
    # Newcombe (1998), paired data, 36 questions of which 20 succeed twice, 12 first alone, 2 second alone, 2 never;
    # each with a picture of its own, so both intervals are nearly Wilson's: (0.7474, 0.9532) and (0.4484, 0.7523).
    outcomes = (
        [(True, True)] * 20 + [(True, False)] * 12 + [(False, True)] * 2 + [(False, False)] * 2
    )
    pairs = [Pair(str(n), str(n), first, second) for n, (first, second) in enumerate(outcomes)]
    assert difference_bounds(pairs) == pytest.approx((-0.449, -0.093), abs=0.012)


def test_difference_where_all_changed_alike_claims_no_certainty() -> None:
    pairs = [Pair(str(n), str(n), True, False) for n in range(12)]
    low, high = difference_bounds(pairs)
    assert low == -1.0
    assert -0.70 < high < -0.60


@pytest.mark.parametrize("rate", [0.005, 0.1])
def test_intervals_of_dependent_answers_hold_the_truth_often_enough(rate: float) -> None:
    """A small part of `make bench-coverage`. With a coverage of 95 %, fewer than 132 of 150 come once in 3,000."""
    world, rng = World(questions=442, images=330, attempts=3), np.random.default_rng(7)
    answer, question = threshold_of(rate, 1), threshold_of(rate, 3)
    images = [str(image) for image in world.image_of]
    held = {"answers": 0, "questions": 0, "change": 0}
    for _ in range(150):
        latent = world.latent(rng)
        answers = world.answers(latent, answer, rng).ravel().tolist()
        first, second = (
            world.answers(latent, question, rng).any(axis=1).tolist() for _ in range(2)
        )
        found = {
            "answers": bounds(share_rate(answers, [image for image in images for _ in range(3)])),
            "questions": bounds(share_rate(first, images)),
        }
        pairs = [Pair("", image, *both) for image, *both in zip(images, first, second, strict=True)]
        low, high = difference_bounds(pairs)
        held["change"] += low <= 0 <= high
        for name, (low, high) in found.items():
            held[name] += low <= rate <= high
    assert min(held.values()) >= 132, held
