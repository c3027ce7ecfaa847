"""The rules of VQA's official normalisation, each by hand; they were compared with the official scripts word for word."""

import pytest

from safemirage.evaluation.vqa_answers import (
    m4c_normalised,
    normalised,
    soft_accuracy,
    vqa_accuracy,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  Blue\tCar\n", "blue car"),
        ("the a an cat", "cat"),
        ("none", "0"),
        ("Ten of two", "10 of 2"),
        ("eleven", "eleven"),
        ("dont", "don't"),
        ("couldnt've", "couldn't've"),
        ("couldn'tve", "couldn't've"),
        ("couldntve", "couldntve"),  # both apostrophes gone: not in the table
        ("y'allll", "y'all'll"),
        ("somebody'd", "somebodyd"),  # the table's own slip
        ("lets", "lets"),
        ("im", "im"),  # the table has `Im`, and text is in lower case
        ("red-ish", "red ish"),  # no space beside the mark: it becomes one
        ("red - ish", "red ish"),  # a space beside it: it goes
        ("red -ish-y", "red ishy"),  # ... everywhere in the text
        ("1,000", "1000"),  # a comma between digits: every mark goes
        ("1,000-2", "10002"),
        ("x,y", "x y"),
        ("3.5", "3.5"),
        (".5", ".5"),
        ("5.", "5"),
        ("u.s.a.", "usa"),
        ("$5", "$5"),  # not one of the marks
        ("it's", "it's"),
    ],
)
def test_normalised_follows_each_rule(text: str, expected: str) -> None:
    assert normalised(text) == expected


def test_normalised_takes_out_32_periods_at_most() -> None:
    assert normalised("." * 40 + "x") == "." * 8 + "x"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("What, now?", "what now"),
        ("Dog's bone", "dog 's bone"),
        ("1,000", "1000"),
        ("red,blue", "redblue"),  # M4C drops commas first
        ("Dont", "don't"),
    ],
)
def test_m4c_normalised_has_its_own_first_steps(text: str, expected: str) -> None:
    assert m4c_normalised(text) == expected


@pytest.mark.parametrize(
    ("equal", "expected"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)]
)
def test_soft_accuracy_averages_over_nine_of_ten(equal: int, expected: float) -> None:
    references = ["cat"] * equal + ["dog"] * (10 - equal)
    assert soft_accuracy("cat", references) == pytest.approx(expected)


def test_vqa_accuracy_normalises_what_each_set_does() -> None:
    all_same = ["yes"] * 10
    mixed = ["Two cats"] * 4 + ["2 cats"] * 6
    assert vqa_accuracy("Yes.", all_same, "vqav2") == 0  # all agree: nothing is normalised
    assert vqa_accuracy("Yes.", all_same, "textvqa") == 1
    assert vqa_accuracy("Yes.", all_same, "vizwiz") == 1
    assert vqa_accuracy("two cats", mixed, "vqav2") == 1
    assert vqa_accuracy("two cats", mixed, "textvqa") == 1
    assert vqa_accuracy("two cats", mixed, "vizwiz") == 1  # six people wrote `2 cats`
    assert vqa_accuracy("two cats", ["Two cats"] * 10, "vizwiz") == 0  # references stay as written
