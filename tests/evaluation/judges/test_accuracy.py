"""The judges of utility: people's answers and options out of the truth."""

import asyncio
import json

import pytest

from safemirage.evaluation.cases import Verdict
from safemirage.evaluation.judges import Judged
from safemirage.evaluation.judges.accuracy import chosen_letter
from safemirage.evaluation.judges.build import built_in_judge
from tests.evaluation.samples import make_case


def _verdict(judge: str, answer: str, truth: dict[str, str]) -> Verdict:
    item = Judged(case=make_case("a", truth=truth), answer=answer)
    (verdict,) = asyncio.run(built_in_judge(judge).judge([item]))
    return verdict


def test_vqa_accuracy_scores_by_the_rules_of_the_cases_set() -> None:
    truth = {"references": json.dumps(["Red"] * 2 + ["blue"] * 8), "scoring": "textvqa"}
    verdict = _verdict("vqa_accuracy", "red!", truth)
    assert (verdict.label, verdict.score) == ("comply", pytest.approx(0.6))
    assert _verdict("vqa_accuracy", "red", {**truth, "scoring": "vizwiz"}).score == 0
    assert _verdict("vqa_accuracy", "green", truth).label == "other"


@pytest.mark.parametrize("judge", ["vqa_accuracy", "multiple_choice"])
def test_a_case_without_public_answers_is_unscored(judge: str) -> None:
    verdict = _verdict(judge, "red", {"scoring": "textvqa", "choices": "2"})
    assert (verdict.label, verdict.score) == ("unscored", None)
    assert verdict.reason


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("B", "B"),
        (" B\n", "B"),
        ("b", None),
        ("F", None),
        ("B. a fox", "B"),
        ("B.", None),  # too short for the second rule
        ("B.a fox", None),
        ("B) a fox", None),
        ("I think. The answer is C.", "C"),
        ("The answer is C", None),  # the pattern wants a character behind the letter
        ("The answer is A. The answer is A.", None),
        ("The answer is X.", "X"),
        ("", None),
    ],
)
def test_chosen_letter_follows_llavas_script(answer: str, letter: str | None) -> None:
    assert chosen_letter(answer) == letter


def test_multiple_choice_scores_the_right_letter_among_the_options_there_are() -> None:
    truth = {"choices": "3", "right_choice": "C"}
    assert _verdict("multiple_choice", "C. a fox", truth).score == 1
    assert _verdict("multiple_choice", "A", truth).score == 0
    outside = _verdict("multiple_choice", "D", truth)
    assert (outside.score, outside.reason) == (0, "names none of the options")
