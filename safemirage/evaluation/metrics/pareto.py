"""Which settings of a search are worth a look: the Pareto front, its knee, and the volume it covers.

Everything here is minimised: turn the sign of what shall be large. Shapes: n points, m objectives.
"""

from collections.abc import Sequence

import moocore
import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]

_TIE = 1e-9
"""Distances closer than this are equal; rates over fewer than 1e8 questions differ by more."""


def pareto_front(costs: Points) -> list[int]:
    """Indices of the points (n, m) that no other point dominates, in rising order.

    A point dominates another when it is nowhere worse and somewhere better, so equal points all stay.

    Raises:
        ValueError: the costs are not a finite (n, m) array.
    """
    costs = _checked(costs)
    on_front = moocore.is_nondominated(costs, keep_weakly=True)
    return [int(index) for index in np.flatnonzero(on_front)]


def knee(costs: Points, ideal: Sequence[float]) -> int:
    """Index of the point (n, m) nearest to `ideal` (m), the best value that each objective can take.

    The distance is Euclidean in the objectives' own units, which must therefore be alike; for rates, 0.1 of one
    weighs as much as 0.1 of another. It is not stretched to the range of the front: with a front of two points
    that would call any two trade-offs equal, also 0.02 of one objective against 0.9 of the other.
    Equal distances go to the point that is better in the first objective, then in the second, and so on; equal
    points to the earlier one.

    Raises:
        ValueError: no points, costs that are not finite, or an ideal of another length.
    """
    costs = _checked(costs)
    if not len(costs):
        raise ValueError("costs: no points, so there is no knee")
    if costs.shape[1] != len(ideal):
        raise ValueError(f"ideal: {len(ideal)} values for {costs.shape[1]} objectives")
    distances = np.linalg.norm(costs - np.asarray(ideal, dtype=np.float64), axis=1)
    nearest = np.flatnonzero(distances <= distances.min() + _TIE)
    return int(min(nearest, key=lambda index: (*costs[index], index)))


def hypervolume(costs: Points, worst: Sequence[float]) -> float:
    """Volume dominated by the points (n, m) inside the box that ends at `worst` (m); larger is better.

    Points outside the box add nothing.

    Raises:
        ValueError: costs that are not finite, or a `worst` of another length.
    """
    costs = _checked(costs)
    if costs.shape[1] != len(worst):
        raise ValueError(f"worst: {len(worst)} values for {costs.shape[1]} objectives")
    return float(moocore.hypervolume(costs, ref=np.asarray(worst, dtype=np.float64)))


def _checked(costs: Points) -> Points:
    costs = np.asarray(costs, dtype=np.float64)
    if costs.ndim != 2 or not costs.shape[1]:
        raise ValueError(f"costs: shape {costs.shape}, but (points, objectives) is needed")
    if not np.isfinite(costs).all():
        raise ValueError("costs: hold a value that is not finite; leave failed trials out")
    return costs
