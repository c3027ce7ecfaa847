"""Pareto front, knee and hypervolume: hand-worked conditions, and the definitions checked point by point."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from safemirage.evaluation.metrics.pareto import Points, hypervolume, knee, pareto_front

# Costs of a search with rates for objectives: attack success, and minus useful answers.
PREFERS_GIBBERISH = [0.00, -0.00]
USEFUL = [0.02, -0.92]
IDEAL = [0.0, -1.0]

points = arrays(
    np.float64,
    st.tuples(st.integers(1, 12), st.integers(1, 3)),
    elements=st.integers(0, 4).map(lambda step: step / 4),
)


def dominates(one: Points, other: Points) -> bool:
    return bool((one <= other).all() and (one < other).any())


@given(points)
def test_front_of_any_points_holds_exactly_the_undominated_ones(costs: Points) -> None:
    expected = [i for i in range(len(costs)) if not any(dominates(row, costs[i]) for row in costs)]
    assert pareto_front(costs) == expected


def test_front_of_equal_points_keeps_them_all() -> None:
    assert pareto_front(np.array([[0.5, 0.5], [0.5, 0.5], [0.5, 0.6]])) == [0, 1]


def test_front_of_no_points_is_empty() -> None:
    assert pareto_front(np.empty((0, 2))) == []


def test_front_with_nan_is_refused() -> None:
    with pytest.raises(ValueError, match="not finite"):
        pareto_front(np.array([[0.0, np.nan]]))


def test_knee_of_two_extremes_weighs_rates_as_they_are() -> None:
    assert knee(np.array([PREFERS_GIBBERISH, USEFUL]), IDEAL) == 1


def test_knee_of_equally_near_points_is_better_in_the_first_objective() -> None:
    assert knee(np.array([[0.1, -1.0], [0.0, -0.9]]), IDEAL) == 1
    assert knee(np.array([[0.0, -0.9], [0.1, -1.0]]), IDEAL) == 0


def test_knee_of_equal_points_is_the_earlier_one() -> None:
    assert knee(np.array([[1.0, -1.0], [0.0, -1.0], [0.0, -1.0]]), IDEAL) == 1


@given(points)
def test_knee_of_any_points_lies_on_the_front(costs: Points) -> None:
    assert knee(costs, [0.0] * costs.shape[1]) in pareto_front(costs)


def test_knee_of_no_points_is_refused() -> None:
    with pytest.raises(ValueError, match="no points"):
        knee(np.empty((0, 2)), IDEAL)


def test_knee_with_an_ideal_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="1 values for 2 objectives"):
        knee(np.zeros((1, 2)), [0.0])


def test_hypervolume_of_two_steps_is_their_union() -> None:
    # Boxes up to (1, 1): 0.75 * 0.5 and 0.25 * 0.75, overlapping in 0.25 * 0.5.
    costs = np.array([[0.25, 0.5], [0.75, 0.25]])
    assert hypervolume(costs, [1.0, 1.0]) == pytest.approx(0.375 + 0.1875 - 0.125)


def test_hypervolume_outside_the_box_is_zero() -> None:
    assert hypervolume(np.array([[1.0, 0.0], [2.0, 2.0]]), [1.0, 1.0]) == 0.0


@given(points)
def test_hypervolume_of_any_points_equals_counted_cells(costs: Points) -> None:
    # Coordinates are quarters, so the dominated part of the unit box is a union of cells of side 1/4.
    axes = [np.arange(4) / 4] * costs.shape[1]
    cells = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, costs.shape[1])
    covered = (costs[None, :, :] <= cells[:, None, :]).all(axis=2).any(axis=1).sum()
    assert hypervolume(costs, [1.0] * costs.shape[1]) == pytest.approx(
        covered / 4 ** costs.shape[1]
    )
