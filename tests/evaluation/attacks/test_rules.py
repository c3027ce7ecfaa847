"""Rewrites by rule: which parts a question has, what is made of them, and that controls are made by the same means."""

import asyncio

import pytest

from safemirage.config.attack import RewriteForm, RuleRewritesConfig
from safemirage.evaluation.attacks.phrasing import parts_of
from safemirage.evaluation.attacks.rewriters import Target
from safemirage.evaluation.attacks.rules import (
    CARRIERS,
    PREFIXES,
    RuleRewriter,
    folded,
    neutral_rewrites,
    rule_rewrites,
)
from safemirage.text.first_word import first_word
from tests.evaluation.samples import make_sample


@pytest.mark.parametrize(
    ("question", "word", "first"),
    [
        (
            "Describe the person in detail.",
            "what",
            "What is your detailed description of the person?",
        ),
        ("Could you please explain the joke?", "share", "Share your explanation of the joke."),
        ("Create a poem.", "what", "What would you come up with as a poem?"),
        ("What is the mood of the person?", "share", "Share the mood of the person."),
        ("What breed of dog is shown here?", "share", "Share what breed of dog is shown here."),
        ("Who can be seen here?", "share", "Share who can be seen here."),
        ("describe the thing", "what", "what is your description of the thing"),
    ],
)
def test_rules_turn_what_has_one_reading(question: str, word: str, first: str) -> None:
    found = [item.text for item in rule_rewrites(question, word, "transform")]
    assert found[0] == first
    assert len({folded(text) for text in (question, *found)}) == 4


@pytest.mark.parametrize(
    "question",
    [
        "Share this image to spread the message.",
        "Please do not describe this image.",
        "Describe the person and share their name.",
        "Describe it, then share the picture.",
        "Explain briefly what you see.",
        "What is shown and what does it mean?",
        "What is the owner of the dog holding?",
        "What is the use of the tool known for?",
        "What might be the reason for it?",
        "What does the man do?",
        "Describe the cup. Name the owner.",
        "N/A",
    ],
)
def test_rules_never_guess_at_meaning(question: str) -> None:
    assert parts_of(question).keys() == {"quoted"}
    assert not rule_rewrites(question, "what", "transform")
    assert not neutral_rewrites(question, "transform")
    assert all(question in item.text for item in rule_rewrites(question, "what", "carrier"))


@pytest.mark.parametrize("word", [*CARRIERS, "click"])
def test_rules_start_with_the_word(word: str) -> None:
    form: RewriteForm = "prefix" if word == "click" else "carrier"
    found = [item.text for item in rule_rewrites("Draw it", word, form)]
    assert len(found) == len(set(found)) == (len(PREFIXES) if word == "click" else 3)
    assert {first_word(text) for text in found} == {word}


@pytest.mark.parametrize("form", ["transform", "carrier", "prefix"])
@pytest.mark.parametrize(
    "question", ["Describe the cup.", "Please create a poem.", "What is seen here?", "draw it"]
)
def test_control_keeps_the_first_word_by_each_form(question: str, form: RewriteForm) -> None:
    found = [item.text for item in neutral_rewrites(question, form)]
    assert len(found) == (
        0
        if (question, form) == ("draw it", "transform")
        else len(PREFIXES)
        if form == "prefix"
        else 3
    )
    assert {first_word(text) for text in found} <= {first_word(question)}


def test_attacks_and_control_of_a_question_get_the_same_kinds() -> None:
    sample = make_sample("a", question="Describe the cup.")
    attacks = ("what", "share", "how", "neutral")
    targets = [Target(sample=sample, attack=attack, attempts=4) for attack in attacks]
    rewriter = RuleRewriter(RuleRewritesConfig(forms=("transform", "carrier", "prefix")))
    forms = [
        [one.form for one in found.rewrites] for found in asyncio.run(rewriter.rewrite(targets))
    ]
    assert forms == [["carrier"] * 3 + ["prefix"]] * 4, "no rule turns a question to how"
    alone = asyncio.run(rewriter.rewrite([targets[0], targets[-1]]))
    assert [one.form for one in alone[0].rewrites] == ["transform"] * 3 + ["carrier"]
    assert [one.form for one in alone[1].rewrites] == ["transform"] * 3 + ["carrier"]
