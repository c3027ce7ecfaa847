"""Holm's correction, against a family worked by hand and against its bounds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safemirage.holm import holm


def test_holm_of_a_family_worked_by_hand() -> None:
    # Sorted .005, .01, .03, .04 times 4, 3, 2, 1: .02, .03, .06, .04 -> the last may not be less than .06.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        holm([1.2])


@given(st.lists(st.floats(0, 1), max_size=12))
def test_holm_never_lowers_a_p_value_nor_exceeds_bonferroni(values: list[float]) -> None:
    adjusted = holm(values)
    for value, result in zip(values, adjusted, strict=True):
        assert value <= result <= min(1.0, max(len(values) * max(values), value))
    order = sorted(range(len(values)), key=values.__getitem__)
    assert sorted(adjusted) == [adjusted[place] for place in order]
