"""Rewrites by rule: a question as one that starts with a given word, and neutral paraphrases that keep its own.

Pure and without chance: the same question and word give the same rewrites in the same order.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from safemirage.evaluation.attacks.rules.patterns import (
    CARRIERS,
    PREFIXES,
    SAME_WORDS,
    TAILS,
    TRANSFORMS,
)
from safemirage.evaluation.attacks.rules.phrasing import parts_of
from safemirage.text.first_word import first_word

Form = Literal["transform", "carrier", "prefix"]
"""transform: the question itself is turned ("What would a caption for this image look like?")
carrier: words that lead up to the question, which follows as it is ("What is your answer to this: ...")
prefix: the bare word before it ("Click: ...")"""


@dataclass(frozen=True)
class Rewrite:
    text: str
    form: str
    """How it was made: a `Form`, `neutral`, or `model`."""


def rule_rewrites(question: str, word: str, forms: Sequence[Form]) -> list[Rewrite]:
    """All rewrites that start with `word`, none equal to the question or to another, form by form.

    Empty where no pattern of these forms fits: the word is in no table, or the question is not understood.
    """
    return _distinct(question, word, _candidates(question, word, forms))


def neutral_rewrites(question: str) -> list[Rewrite]:
    """Paraphrases that keep the question's first word: other nouns, then words after it, then both."""
    swapped = [text for text in _swapped(question) if text != question]
    plain_end = question if question.rstrip().endswith((".", "?", "!")) else f"{question.rstrip()}."
    tailed = [f"{text} {tail}" for tail in TAILS for text in [plain_end, *swapped]]
    tailed.sort(key=lambda text: not text.startswith(plain_end))  # stable: one change before two
    made = [Rewrite(text, "neutral") for text in [*swapped, *tailed]]
    return _distinct(question, first_word(question), made)


def folded(text: str) -> str:
    """What two texts share that differ in case, spaces and marks alone."""
    return " ".join(re.findall(r"\w+", text.lower()))


def _candidates(question: str, word: str, forms: Sequence[Form]) -> Iterator[Rewrite]:
    parts = {str(name): text for name, text in parts_of(question).items()}
    for form in forms:
        for pattern in _patterns(word, form):
            if form == "prefix":
                yield Rewrite(pattern.format(word=word.capitalize(), **parts), form)
                continue
            part = pattern[pattern.index("{") + 1 : pattern.index("}")]
            if part in parts:
                yield Rewrite(_in_style(pattern.format(**parts), question), form)


def _patterns(word: str, form: Form) -> Sequence[str]:
    match form:
        case "transform":
            return TRANSFORMS.get(word, ())
        case "carrier":
            return CARRIERS.get(word, ())
        case "prefix":
            return PREFIXES


def _in_style(text: str, question: str) -> str:
    """The rewrite in lower case and without a mark at the end, where the question is so."""
    if question[:1].islower():
        text = text[:1].lower() + text[1:]
        return text if question.rstrip().endswith((".", "?", "!")) else text.rstrip(".?!")
    return text


def _swapped(question: str) -> Iterator[str]:
    for old, new in SAME_WORDS:
        yield re.sub(rf"\b{old}\b", new, question)


def _distinct(question: str, word: str, made: Iterable[Rewrite]) -> list[Rewrite]:
    seen = {folded(question)}
    kept: list[Rewrite] = []
    for rewrite in made:
        key = folded(rewrite.text)
        if key in seen and rewrite.form != "prefix":
            continue
        if rewrite.text in {item.text for item in kept} or first_word(rewrite.text) != word:
            continue
        seen.add(key)
        kept.append(rewrite)
    return kept
