"""The words of a question and how it opens: the one definition that the audit, the attacks and the tables share."""

import re

_WORD = re.compile(r"([^\W\d_]+)(?:['\u2019][^\W\d_]+)*")


def words_of(question: str) -> list[str]:
    """The alphabetic words of a question in lower case, each up to its apostrophe: "what's" counts as "what"."""
    return [word.lower() for word in _WORD.findall(question)]


def opening(question: str, length: int) -> str:
    """The first words of a question, in lower case; fewer where it is shorter."""
    return " ".join(words_of(question)[:length])


def first_word(question: str) -> str:
    """The first alphabetic word of a question, in lower case; "" where there is none."""
    return opening(question, 1)
