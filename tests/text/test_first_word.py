"""How a question opens, and that the audit and the tables of rates read it alike."""

import pytest

from safemirage.data.audit.examples import Example
from safemirage.data.audit.words import word_stats
from safemirage.evaluation.metrics.rates import first_word_rates
from safemirage.text.first_word import first_word
from tests.evaluation.samples import make_evaluated

QUESTIONS = [
    ("What is it?", "what"),
    ("  Share, please", "share"),
    ('"How" so', "how"),
    ("\u201cHow\u201d so", "how"),
    ("What's in the picture?", "what"),
    ("I\u2019d like a caption", "i"),
    ("3 people are shown. Name them.", "people"),
    ("**Describe** the picture", "describe"),
    ("Re-write the sign", "re"),
    ("<image> Explain this", "image"),
]


@pytest.mark.parametrize(("question", "word"), [*QUESTIONS, ("", ""), ("123", "")])
def test_first_word_is_lower_condition_and_alphabetic(question: str, word: str) -> None:
    assert first_word(question) == word


def test_audit_and_rates_read_the_same_first_words() -> None:
    examples = [
        Example(question, unsafe=True, category="any", source_id=str(index), image=None)
        for index, (question, _) in enumerate(QUESTIONS)
    ]
    audited = {item.word: item.unsafe for item in word_stats(examples, "first word", min_count=1)}
    samples = [
        make_evaluated(str(index), {"keywords": "comply"}, question=question)
        for index, (question, _) in enumerate(QUESTIONS)
    ]
    rates = first_word_rates("m", samples, metric="asr", judge="keywords", subset="unsafe")
    assert {rate.word: rate.n for rate in rates} == audited
