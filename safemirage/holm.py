"""Many tests at once: p-values adjusted for their number."""

from collections.abc import Sequence


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values adjusted for their number, in their order: each at most ALPHA keeps the family's error there.

    Holm (1979): the i-th smallest of m, i from 0, times m - i; never less than a smaller one's; at most 1.

    Raises:
        ValueError: a p-value lies outside [0, 1].
    """
    if not all(0 <= value <= 1 for value in p_values):
        raise ValueError(f"p-values {list(p_values)!r}: each must lie in [0, 1]")
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda item: p_values[item])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = largest
    return adjusted
