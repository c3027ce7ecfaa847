"""Which words and openings of questions go with their safety label, and how surely."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
from scipy.stats import fisher_exact

from safemirage.data.audit.examples import Example
from safemirage.holm import holm
from safemirage.text.first_word import first_word, opening, words_of

Kind = Literal["first word", "first 2 words", "first 3 words", "word anywhere"]
KINDS: tuple[Kind, ...] = ("first word", "first 2 words", "first 3 words", "word anywhere")
OPENINGS: dict[Kind, int] = {"first word": 1, "first 2 words": 2, "first 3 words": 3}


@dataclass(frozen=True)
class WordStat:
    """How one word (or opening) goes with the label."""

    word: str
    safe: int
    unsafe: int
    p_unsafe: float
    """P(unsafe | word), the share of unsafe questions among those with the word."""
    points_to: Literal["safe", "unsafe"]
    """The label that is more frequent with the word than without it."""
    pmi: float
    """log2 P(label | word) / P(label), in bits, of the label that it points to."""
    p_value: float
    """Fisher's exact test, two-sided, Holm-corrected over the words of its kind."""


@dataclass(frozen=True)
class CategoryWord:
    word: str
    count: int
    share: float
    """Part of the category's questions that open with it."""
    pmi: float
    """log2 P(category | word) / P(category), in bits."""
    p_value: float
    """Like `WordStat.p_value`, adjusted over all pairs of category and word."""


@dataclass(frozen=True)
class CategoryStat:
    category: str
    questions: int
    unsafe: int
    words: tuple[CategoryWord, ...]
    """The first words of the category's questions, most frequent first."""


def word_stats(examples: Sequence[Example], kind: Kind, *, min_count: int) -> tuple[WordStat, ...]:
    """One entry for every word of this kind that stands in at least `min_count` questions."""
    total, total_unsafe = len(examples), sum(item.unsafe for item in examples)
    both: Counter[str] = Counter()
    unsafe: Counter[str] = Counter()
    for item in examples:
        found = _features(item.question, kind)
        both.update(found)
        unsafe.update(found if item.unsafe else ())
    names = sorted(
        (word for word in both if both[word] >= min_count), key=lambda word: (-both[word], word)
    )
    p_values = holm([_fisher(unsafe[word], both[word], total_unsafe, total) for word in names])
    base = total_unsafe / total
    result = []
    for word, p_value in zip(names, p_values, strict=True):
        p_unsafe = unsafe[word] / both[word]
        # Where all are unsafe no word is more so than the others, and 1 - base could not be divided by.
        upward = p_unsafe > base or base == 1.0
        ratio = p_unsafe / base if upward else (1 - p_unsafe) / (1 - base)
        result.append(
            WordStat(
                word=word,
                safe=both[word] - unsafe[word],
                unsafe=unsafe[word],
                p_unsafe=p_unsafe,
                points_to="unsafe" if upward else "safe",
                pmi=math.log2(ratio),
                p_value=p_value,
            )
        )
    return tuple(result)


def strongest_words(
    stats: Sequence[WordStat], points_to: Literal["safe", "unsafe"], count: int
) -> list[WordStat]:
    """At most `count` of the words that point to a label, the surest first, among equals the most frequent: the order
    in which the audit shows them."""
    found = [item for item in stats if item.points_to == points_to]
    found.sort(key=lambda item: (item.p_value, -item.safe - item.unsafe))
    return found[:count]


def category_stats(examples: Sequence[Example]) -> tuple[CategoryStat, ...]:
    """The first words of each category, largest category first."""
    total = len(examples)
    sizes = Counter(item.category for item in examples)
    unsafe = Counter(item.category for item in examples if item.unsafe)
    opened = [first_word(item.question) for item in examples]
    words = Counter(opened)
    pairs = Counter((item.category, word) for item, word in zip(examples, opened, strict=True))
    p_values = holm(
        [
            _fisher(count, words[word], sizes[category], total)
            for (category, word), count in pairs.items()
        ]
    )
    entries: dict[str, list[CategoryWord]] = {category: [] for category in sizes}
    for ((category, word), count), p_value in zip(pairs.items(), p_values, strict=True):
        pmi = math.log2(count * total / (words[word] * sizes[category]))
        entries[category].append(CategoryWord(word, count, count / sizes[category], pmi, p_value))
    return tuple(
        CategoryStat(
            category,
            size,
            unsafe[category],
            tuple(sorted(entries[category], key=lambda item: (-item.count, item.word))),
        )
        for category, size in sizes.most_common()
    )


def _features(question: str, kind: Kind) -> set[str]:
    """The words of this kind; none for a question without letters."""
    found = (
        set(words_of(question)) if kind == "word anywhere" else {opening(question, OPENINGS[kind])}
    )
    return found - {""}


# Cached because thousands of rare words share the same few counts, and the exact test is slow.
@cache
def _fisher(hits: int, drawn: int, marked: int, total: int) -> float:
    """Two-sided p of `hits` marked ones among `drawn` of `total`, of which `marked` are."""
    table = np.array([[hits, drawn - hits], [marked - hits, total - marked - drawn + hits]])
    return float(fisher_exact(table).pvalue)
