"""The parts of a question that a rewrite can be made of: what it orders, what it asks for, the clause it asks in.

No parser and no model: word lists and word order. A question that they do not understand has fewer parts, never a guess:
only its whole text (`quoted`) is always there.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Literal

from safemirage.evaluation.attacks.rules.phrasing_words import (
    ADVERBS,
    AUXILIARIES,
    COMMANDS,
    MODALS,
    NOT_PARTICIPLES,
    PLAIN_VERBS,
    PREPOSITIONS,
    PRODUCING,
    PRONOUNS,
    SPEAKING,
    SUBJECT_STARTS,
    WH_WORDS,
)
from safemirage.text.first_word import words_of

Part = Literal["infinitive", "topic", "product", "noun", "clause", "stated", "quoted"]
"""infinitive: "describe the picture" of "Describe the picture." or "Can you describe the picture?"
topic: "the picture", what is to be spoken about
product: "a caption for it", what is to be made
noun: "the mood of the person" of "What is the mood of the person?"
clause: "what the image is showing" of "What is the image showing?"
stated: "the image is showing", the same without its question word, where that is "what" alone
quoted: the whole question"""

_ASKED = re.compile(r"(?:can|could|would|will)\s+you\s+(?:please\s+)?", re.IGNORECASE)
_PLEASE = re.compile(r"please,?\s+", re.IGNORECASE)
_MANNER = re.compile(r"(?:in (?:great |more )?detail|briefly|closely|carefully)\s+", re.IGNORECASE)
_JOINED = re.compile(r"(?<=\w),?\s+(?:and|or)\s+(?:then\s+)?(\w+)", re.IGNORECASE)
_SECOND_QUESTION = re.compile(
    rf"\b(?:{'|'.join(sorted(WH_WORDS))})\s+(?:{'|'.join(sorted(AUXILIARIES))})\b", re.IGNORECASE
)
_IN_SUBJECT = frozenset({"that", "who", "which", "where", "when", "if", "by", "being"})


def parts_of(question: str) -> Mapping[Part, str]:
    """What there is of each part, without the mark at the end. Only `quoted` is always there, with its mark."""
    quoted = " ".join(question.split())
    body = quoted.rstrip(" .?!")
    parts: dict[Part, str] = {"quoted": quoted}
    if len(_sentences(body)) > 1 or not words_of(body):
        return parts
    order = _order(body)
    if order is not None:
        return {**parts, "infinitive": order, **_ordered(order)}
    words = body.split()
    if words_of(words[0])[:1] and words[0].lower() in WH_WORDS:
        return {**parts, **_asked(words)}
    return parts


def _sentences(text: str) -> list[str]:
    return [part for part in re.split(r"(?<=[.?!])\s+(?=[A-Z])", text) if part]


def _order(body: str) -> str | None:
    """What somebody is told to do, as an infinitive without `to`; None where nobody is, or is told not to."""
    text = _PLEASE.sub("", body, count=1) if _PLEASE.match(body) else body
    text = _ASKED.sub("", text, count=1) if _ASKED.match(text) else text
    first, _, rest = text.partition(" ")
    manner = _MANNER.match(text)
    verb = text[manner.end() :].partition(" ")[0] if manner else first
    if verb.lower() not in COMMANDS or not rest:
        return None
    if first.lower() == "do" and rest.lower().startswith(("not ", "n't ")):
        return None
    return first.lower() + text[len(first) :]


def _ordered(order: str) -> dict[Part, str]:
    """Topic or product, where the order has one verb and its object can stand alone."""
    verb, _, rest = order.partition(" ")
    if verb == "tell":
        return {"topic": rest.removeprefix("me about ")} if rest.startswith("me about ") else {}
    if any(word.lower() in COMMANDS for word in _JOINED.findall(rest)):
        return {}
    if verb in PRODUCING and rest.lower().startswith(("a ", "an ")):
        return {"product": rest}
    rest = _MANNER.sub("", rest, count=1) if _MANNER.match(rest) else rest
    starts = rest.partition(" ")[0].lower()
    if verb in SPEAKING and (starts in SUBJECT_STARTS or starts in WH_WORDS):
        return {"topic": rest}
    return {}


def _asked(words: Sequence[str]) -> dict[Part, str]:
    """The clause of a question that starts with a question word, and the noun that "What is ...?" asks for."""
    low = [word.lower().strip(",") for word in words]
    if _SECOND_QUESTION.search(" ".join(words[2:])):
        return {}
    place = next((index for index, word in enumerate(low) if word in AUXILIARIES), None)
    if place is None or "that" in low[:place] or set(low[1:place]) & PLAIN_VERBS:
        return _clause(words, words[1:])  # the question word is part of the subject
    rest = words[place + 1 :]
    if not rest or low[place + 1] not in SUBJECT_STARTS:
        return _clause(words, words[1:])
    alone = place == 1 and low[0] == "what"
    found = _straight(words[place].lower(), rest)
    if found is not None:
        parts = _clause(words, [*words[1:place], *found])
        return {**parts, "stated": " ".join(found)} if alone else parts
    if alone and low[1] in ("is", "are"):
        return {"noun": " ".join(rest)}
    return {}


def _clause(words: Sequence[str], rest: Sequence[str]) -> dict[Part, str]:
    return {"clause": " ".join([words[0].lower(), *rest])} if rest else {}


def _straight(auxiliary: str, rest: Sequence[str]) -> list[str] | None:
    """`is` + `the image showing` -> `the image is showing`; None where the end of the subject cannot be told."""
    low = [word.lower().strip(",") for word in rest]
    if auxiliary in ("is", "are", "was", "were"):
        end = _participle(low)
    elif auxiliary in MODALS or auxiliary in ("do", "does"):
        end = 1 if low[0] in PRONOUNS else _verb(low)
    else:
        end = None
    if end is None or not 0 < end < len(rest):
        return None
    if auxiliary not in ("do", "does"):
        return [*rest[:end], auxiliary, *rest[end:]]
    verb = end + _is_adverb(low[end])
    if verb == len(rest):
        return None
    spoken = _third_person(rest[verb]) if auxiliary == "does" else rest[verb]
    return [*rest[:verb], spoken, *rest[verb + 1 :]]


def _participle(low: Sequence[str]) -> int | None:
    """The place where the auxiliary belongs: before a participle outside of the subject, or before a preposition at
    the end."""
    for place, word in enumerate(low):
        if place == 0:
            continue
        if word in _IN_SUBJECT or word in AUXILIARIES:
            return None
        if word.endswith("ing") and word.isalpha() and word not in NOT_PARTICIPLES:
            before = low[place - 1]
            if before in PREPOSITIONS or before in ("be", "the", "a", "an", "or", "and"):
                return None
            return place - 1 if _is_adverb(before) else place
    if low[-1] not in PREPOSITIONS or len(low) < 2:
        return None
    end = len(low) - 1
    return end - 1 if low[end - 1].endswith("ed") or low[end - 1] == "made" else end


def _verb(low: Sequence[str]) -> int | None:
    """Place of the first verb after the subject, or of its adverb."""
    for place, word in enumerate(low):
        if word in _IN_SUBJECT - {"by", "being"}:
            return None
        if place and word in PLAIN_VERBS and low[place - 1] not in SUBJECT_STARTS - PRONOUNS:
            return place - 1 if place > 1 and _is_adverb(low[place - 1]) else place
    return None


def _is_adverb(word: str) -> bool:
    return word in ADVERBS or (word.endswith("ly") and word not in PLAIN_VERBS)


def _third_person(verb: str) -> str:
    if verb == "have":
        return "has"
    if verb == "be":
        return "is"
    if verb.endswith(("s", "sh", "ch", "x", "o")):
        return f"{verb}es"
    if verb.endswith("y") and verb[-2:-1] not in "aeiou":
        return f"{verb[:-1]}ies"
    return f"{verb}s"
