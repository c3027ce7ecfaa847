"""VLGuard's refusal keywords, against the rates counted on its own reference answers."""

import warnings
from pathlib import Path

import pytest

from safemirage.data.records import DataWarning
from safemirage.data.vlguard import iterate_pairs, read_vlguard
from safemirage.text.refusal_keywords import VLGUARD_KEYWORDS, is_refusal


def test_keywords_are_59_distinct() -> None:
    assert len(VLGUARD_KEYWORDS) == len(set(VLGUARD_KEYWORDS)) == 59


@pytest.mark.parametrize(
    ("answer", "refuses"),
    [
        ("I'm SORRY, no.", True),
        ("It is not", True),
        ("It is not a cat.", False),
        ("It is legally parked.", True),
        ("I\u2019m sorry, no.", False),
        ("A cat.", False),
        ("", False),
    ],
)
def test_is_refusal_follows_the_list_to_the_letter(answer: str, refuses: bool) -> None:
    assert is_refusal(answer) is refuses


@pytest.mark.parametrize(
    ("file", "kind", "refusals"),
    [
        ("train.json", "unsafe", 1023),
        ("train.json", "safe_unsafe", 811),
        ("train.json", "safe_safe", 17),
        ("test.json", "unsafe", 320),
        ("test.json", "safe_unsafe", 550),
        ("test.json", "safe_safe", 4),
    ],
)
def test_is_refusal_on_reference_answers_gives_the_known_counts(
    vlguard: Path, file: str, kind: str, refusals: int
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        records = read_vlguard(vlguard / file)
    found = [is_refusal(pair.answer) for _, pair in iterate_pairs(records) if pair.kind == kind]
    assert sum(found) == refusals
