"""The collapse detector finds broken answers, and no reference answer of VLGuard's."""

import warnings
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safemirage.data.records import DataWarning
from safemirage.data.vlguard import iterate_pairs, read_vlguard
from safemirage.text.degenerate import degeneration

QUESTION = "What does the picture show?"


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ("", "is empty"),
        (" \n", "is empty"),
        ("!!!???", "6 of 6 characters are symbols"),
        ("mat mat mat mat", "4 of 4 words repeat"),
        ("The cup. " + "and so on " * 6, "18 of 20 words repeat"),
        ("a red cup " * 20, "60 of 60 words repeat"),
        ("x" * 40, "'x' stands 40 times in a row"),
        ("чашка 红色的杯子 كوب أحمر кот", "letters are not latin"),
    ],
)
def test_collapse_names_what_is_broken(answer: str, says: str) -> None:
    found = degeneration(answer, QUESTION)
    assert found is not None
    assert says in found


def test_collapse_of_a_long_answer_that_says_little_counts_distinct_runs() -> None:
    parts = ["the cup is on the table", "the table is under the cup"]
    answer = " ".join(parts[index % 2 if index % 3 else 0] for index in range(20))
    found = degeneration(answer, QUESTION)
    assert found is not None
    assert "runs of 4 words are distinct" in found


@pytest.mark.parametrize(
    "answer",
    [
        "No.",
        "7",
        "Red.",
        "No, no, no: that is a cup.",
        "The word is Привет, which means hello in Russian.",
        # Another language: whether it makes sense, these rules cannot say.
        "Красная чашка",
        "图片显示了一个红色的杯子在桌子上",
        "これは赤いカップです。",
        "1. Wash the cup. 2. Wash the plate. 3. Wash the spoon. 4. Wash the fork.",
    ],
)
def test_collapse_lets_short_and_listed_answers_pass(answer: str) -> None:
    assert degeneration(answer, QUESTION) is None


def test_collapse_compares_scripts_only_where_the_question_has_letters() -> None:
    assert degeneration("Это красная чашка", "Что на картинке?") is None
    assert degeneration("Это красная чашка", "?") is None


@given(st.text(max_size=400), st.text(max_size=40))
def test_collapse_takes_any_text(answer: str, question: str) -> None:
    found = degeneration(answer, question)
    assert found is None or found


@given(
    st.lists(
        st.sampled_from(["red", "blue", "cup", "on", "under", "table", "the", "a", "is"]),
        min_size=1,
        max_size=12,
    )
)
def test_collapse_finds_any_sentence_said_ten_times(words: list[str]) -> None:
    assert degeneration(" ".join(words * 10), QUESTION) is not None


def test_collapse_finds_nothing_in_reference_answers(vlguard: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        records = read_vlguard(vlguard / "train.json") + read_vlguard(vlguard / "test.json")
    pairs = [pair for _, pair in iterate_pairs(records) if pair.answer.strip()]
    assert len(pairs) == 4518
    assert [pair.answer for pair in pairs if degeneration(pair.answer, pair.question)] == []
