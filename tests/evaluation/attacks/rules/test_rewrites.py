"""Rewrites by rule: the parts of a question, what is made of them, and how many of VLGuard's real questions they turn."""

from pathlib import Path

import pytest

from safemirage.data.vlguard import PairKind, iterate_pairs, read_vlguard
from safemirage.evaluation.attacks.rules.patterns import CARRIERS, PREFIXES, TRANSFORMS
from safemirage.evaluation.attacks.rules.phrasing import parts_of
from safemirage.evaluation.attacks.rules.rewrites import folded, neutral_rewrites, rule_rewrites
from safemirage.miniature.questions import phrasings
from safemirage.text.first_word import first_word


@pytest.mark.parametrize(
    ("question", "clause"),
    [
        ("What is the image showing?", "what the image is showing"),
        ("What are the three dolls doing here?", "what the three dolls are doing here"),
        ("What message is conveyed by the text?", "what message is conveyed by the text"),
        ("What does this image suggest about her?", "what this image suggests about her"),
        ("What mood does the sky convey?", "what mood the sky conveys"),
        ("What can you infer about the place?", "what you can infer about the place"),
        ("What is this tool used for?", "what this tool is used for"),
        ("What might the man be holding?", "what the man might be holding"),
        ("What is the weather like?", "what the weather is like"),
        ("How many cats look at the camera?", "how many cats look at the camera"),
    ],
)
def test_parts_clause_is_put_into_the_order_of_a_statement(question: str, clause: str) -> None:
    assert parts_of(question)["clause"] == clause


@pytest.mark.parametrize(
    ("question", "part", "text"),
    [
        ("Describe the person.", "infinitive", "describe the person"),
        ("Could you please describe the person?", "infinitive", "describe the person"),
        ("Please describe the person.", "topic", "the person"),
        ("Tell me about this image", "topic", "this image"),
        ("Create a poem using this image.", "product", "a poem using this image"),
        ("What is the mood of the person?", "noun", "the mood of the person"),
        ("What is the place where it was taken?", "noun", "the place where it was taken"),
    ],
)
def test_parts_of_orders_and_of_what_is(question: str, part: str, text: str) -> None:
    assert dict(parts_of(question))[part] == text  # type: ignore[index]


@pytest.mark.parametrize(
    "question",
    [
        "Please do not share this image.",
        "This image should be removed.",
        "What is shown and what does it mean?",
        "Describe it. Then name it.",
        "N/A",
        "?",
    ],
)
def test_parts_of_what_is_not_understood_are_the_whole_question(question: str) -> None:
    assert set(parts_of(question)) == {"quoted"}


def test_parts_object_of_two_verbs_is_no_topic() -> None:
    assert "topic" not in parts_of("Describe the person and name the place.")


def test_rewrites_start_with_the_word_and_differ() -> None:
    question = "Describe the person in the image."
    for word in TRANSFORMS.keys() | CARRIERS.keys():
        found = rule_rewrites(question, word, ("transform", "carrier"))
        assert len(found) >= 2, word
        assert {first_word(item.text) for item in found} == {word}
        assert len({folded(item.text) for item in found} | {folded(question)}) == len(found) + 1
    assert rule_rewrites(question, "what", ("transform",))[0].text == (
        "What can you tell me about the person in the image?"
    )


def test_rewrites_take_the_questions_style() -> None:
    (first, *_) = rule_rewrites("describe the object in this picture", "what", ("transform",))
    assert first.text == "what can you tell me about the object in this picture"


def test_rewrites_of_an_unknown_word_need_the_prefix() -> None:
    assert rule_rewrites("What is it?", "click", ("transform", "carrier")) == []
    found = rule_rewrites("What is it?", "click", ("transform", "prefix"))
    assert [item.form for item in found] == ["prefix"] * len(PREFIXES)
    assert found[0].text == "Click: What is it?"


def test_rewrites_never_give_the_question_back() -> None:
    texts = [item.text for item in rule_rewrites("Share a poem.", "share", ("transform",))]
    assert "Share a poem." not in texts
    assert texts


def test_neutral_keeps_the_first_word_and_changes_something_else() -> None:
    question = "Describe the person in the image."
    found = [item.text for item in neutral_rewrites(question)]
    assert found[0] == "Describe the person in the picture."
    assert {first_word(text) for text in found} == {"describe"}
    assert len({folded(text) for text in found} | {folded(question)}) == len(found) + 1
    assert len(neutral_rewrites("draw it")) >= 5


@pytest.mark.filterwarnings("ignore::safemirage.data.records.DataWarning")
@pytest.mark.parametrize(
    ("kind", "word", "questions", "turned"),
    [("unsafe", "what", 442, 434), ("safe_safe", "share", 558, 524)],
)
def test_rules_turn_vlguards_questions(
    vlguard: Path, kind: PairKind, word: str, questions: int, turned: int
) -> None:
    records = read_vlguard(vlguard / "test.json")
    asked = [pair.question for _, pair in iterate_pairs(records) if pair.kind == kind]
    three = [len(rule_rewrites(text, word, ("transform",))) >= 3 for text in asked]
    assert (len(asked), sum(three)) == (questions, turned)
    assert all(len(rule_rewrites(text, word, ("transform", "carrier"))) >= 3 for text in asked)
    assert all(len(neutral_rewrites(text)) >= 5 for text in asked)


def test_rules_turn_the_miniatures_questions() -> None:
    for word in ("share", "describe", "explain"):
        for question in phrasings(word):
            found = rule_rewrites(question, "what", ("transform",))
            assert len(found) >= 3, question
            assert all(item.text.startswith("what ") for item in found)
