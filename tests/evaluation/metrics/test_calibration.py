"""Correction for a judge's errors: by hand, and back to the target that errors were drawn from."""

import numpy as np
import pytest
from numpy.typing import NDArray

from safemirage.evaluation.metrics.calibration import (
    Calibration,
    CannotCorrect,
    calibrate,
    cohen_kappa,
    correct_any_of,
)

Truths = NDArray[np.bool_]


def _known(hits: int, misses: int, rejections: int, alarms: int) -> Calibration:
    target = ["comply"] * (hits + misses) + ["refuse"] * (rejections + alarms)
    said = ["comply"] * hits + ["refuse"] * (misses + rejections) + ["comply"] * alarms
    return calibrate("judge", "comply", target, said)


def test_calibrate_counts_the_four_cells_and_leaves_unscored_out() -> None:
    target = ["comply"] * 5 + ["refuse"] * 4
    said = ["comply", "comply", "comply", "refuse", None, "refuse", "refuse", "other", "comply"]
    found = calibrate("judge", "comply", target, said)
    assert (found.hits, found.misses, found.correct_rejections, found.false_alarms) == (3, 1, 3, 1)
    assert (found.unscored, found.sensitivity.value, found.specificity.value) == (1, 0.75, 0.75)
    assert found.kappa == pytest.approx((0.75 - 0.5) / 0.5)


def test_cohen_kappa_at_its_limits() -> None:
    assert cohen_kappa("aabb", "aabb") == 1.0
    assert cohen_kappa("aabb", "abab") == 0.0
    assert cohen_kappa("aabb", "bbaa") == -1.0
    assert cohen_kappa("aaaa", "aaaa") is None
    assert cohen_kappa("", "") is None
    assert cohen_kappa("aab", "abc") == pytest.approx((3 * 1 - 3) / (9 - 3))


def _names(count: int) -> list[str]:
    return [str(index) for index in range(count)]


def test_correct_any_of_single_answers_is_rogan_and_gladen() -> None:
    # q = 30/100, s = .9, c = .8: (.3 + .8 - 1) / .7 = 1/7
    said = [[index < 30] for index in range(100)]
    rate = correct_any_of(said, _names(100), _known(90, 10, 80, 20))
    assert (rate.least, rate.most) == (pytest.approx(1 / 7), pytest.approx(1 / 7))
    assert rate.low < 1 / 7 < rate.high
    assert (rate.n, rate.note) == (100, "")


def test_correct_any_of_bounds_worked_by_hand() -> None:
    # s = .9, c = .8; (yes, yes) and (yes, no): 1.5 yes a question, t = (1.5 - .4) / .7 = 11/7, all questions opened.
    # Left: max(11/14, 1 - .2 * 3/7) = 32/35. Right: min(1, 11/7, 1 + .1 * 11/7) = 1.
    rate = correct_any_of([[True, True], [True, False]], ["a", "b"], _known(90, 10, 80, 20))
    assert (rate.least, rate.most) == (pytest.approx(32 / 35), 1.0)
    # (yes, no), (no, no), (yes, no), (no, no): t = (.5 - .4) / .7 = 1/7, half of the questions opened.
    # Left: max(1/14, .5 - .2 * 13/7) = 9/70. Right: min(1, 1/7, .5 + .1 / 7) = 1/7.
    rate = correct_any_of(
        [[True, False], [False, False]] * 2, ["a", "b", "c", "d"], _known(90, 10, 80, 20)
    )
    assert (rate.least, rate.most) == (pytest.approx(9 / 70), pytest.approx(1 / 7))


def test_correct_any_of_by_a_judge_without_errors_is_what_it_says() -> None:
    said = [[False, True, False], [False] * 3, [True] * 3, [False] * 3]
    rate = correct_any_of(said * 50, _names(200), _known(2000, 0, 2000, 0))
    assert (rate.least, rate.most) == (0.5, 0.5)


def test_correct_any_of_by_a_judge_that_says_no_always_is_not_certain_of_0() -> None:
    rate = correct_any_of([[False]] * 50, _names(50), _known(200, 0, 200, 0))
    assert (rate.least, rate.most, rate.low) == (0.0, 0.0, 0.0)
    assert 0.02 < rate.high < 0.1  # Jeffreys' bound for 0 of 50 is 4.9 %
    rate = correct_any_of([[False]] * 50, _names(50), _known(9, 1, 5, 5))
    assert "taken for 0" in rate.note


def test_correct_any_of_needs_one_k() -> None:
    with pytest.raises(CannotCorrect, match="2 to 3 scored answers"):
        correct_any_of([[True] * 3, [True] * 2], ["a", "b"], _known(90, 10, 80, 20))


def _questions(kind: str, rng: np.random.Generator, count: int) -> tuple[Truths, Truths]:
    """Truth and the judge's verdicts of questions with three rewrites; sensitivity .9, specificity .85."""
    alike = rng.random((count, 1)) < 0.176
    target = np.repeat(alike, 3, axis=1)
    if kind != "target shared":
        target = (rng.random((count, 1)) < 0.3) & (rng.random((count, 3)) < 0.255)
    missed, alarmed = rng.random((count, 3)) < 0.1, rng.random((count, 3)) < 0.15
    if kind != "errors independent":
        alarmed = np.repeat(rng.random((count, 1)) < 0.15, 3, axis=1)
    if kind == "all shared":
        missed = np.repeat(rng.random((count, 1)) < 0.1, 3, axis=1)
    return target, np.where(target, ~missed, alarmed)


@pytest.mark.parametrize(
    "kind", ["alarms shared", "errors independent", "target shared", "all shared"]
)
def test_correct_any_of_covers_the_truth_however_errors_hang_together(kind: str) -> None:
    rng = np.random.default_rng(7)
    actual = _questions(kind, rng, 200_000)[0].any(axis=1).mean()
    assert actual == pytest.approx(0.176, abs=0.005)
    covered, covered_single, repeats = 0, 0, 120
    for _ in range(repeats):
        hits, rejections = rng.binomial(200, 0.9), rng.binomial(200, 0.85)
        known = _known(hits, 200 - hits, rejections, 200 - rejections)
        said = _questions(kind, rng, 150)[1]
        names = _names(150)
        rate = correct_any_of(said.tolist(), names, known, draws=400)
        single = correct_any_of(
            said.reshape(-1, 1).tolist(), np.repeat(names, 3).tolist(), known, draws=400
        )
        assert rate.least >= single.least - 1e-9
        assert rate.low >= single.low - 1e-9
        covered += rate.low <= actual <= rate.high
        covered_single += single.low <= _share(kind) <= single.high
    assert covered >= 0.93 * repeats
    assert covered_single >= 0.9 * repeats


def _share(kind: str) -> float:
    """The share of single answers that are true."""
    return 0.176 if kind == "target shared" else 0.3 * 0.255


def test_correct_any_of_by_a_judge_no_better_than_chance_is_refused() -> None:
    with pytest.raises(CannotCorrect, match="<= 1"):
        correct_any_of([[True]], ["a"], _known(5, 5, 5, 5))
    with pytest.raises(CannotCorrect, match="too few to tell it from chance"):
        correct_any_of([[True]], ["a"], _known(1, 1, 2, 1))
    with pytest.raises(CannotCorrect, match="needs answers with and without 'comply'"):
        correct_any_of([[True]], ["a"], _known(5, 1, 0, 0))
