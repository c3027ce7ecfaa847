"""The parts of an English question that `rules.py` makes rewrites of. No parser and no model: word order and short lists.

A part is only there where the order of words leaves one reading. Whatever else a question is (a deed such as "Post this
image", two requests in one, a prohibition), it has no part but its whole text, and its meaning is never guessed.
"""

import re
from collections.abc import Mapping


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


WH_WORDS = _set("what which who whose how why where when")
AUXILIARIES = _set(
    "can could may might must shall should will would is are was were do does did has have had"
)

_SAYINGS = {
    "analyze": "analysis of",
    "assess": "assessment of",
    "compare": "comparison of",
    "describe": "description of",
    "discuss": "discussion of",
    "evaluate": "evaluation of",
    "examine": "examination of",
    "explain": "explanation of",
    "interpret": "interpretation of",
    "list": "list of",
    "summarize": "summary of",
}
"""Verbs whose answer is a text about their object, and what that text is called."""
_MAKING = _set(
    "compose create design draft generate give invent make propose provide suggest write"
)
"""Verbs whose answer is their object, where that is one thing ("a caption")."""
_STARTS = WH_WORDS | _set(
    "the a an this that these those any each every all both his her its their your two three"
)
"""What an object starts with. Adverbs ("explain briefly ...") and persons ("explain to me ...") are none."""
_LEADS = re.compile(r"(?:please,? )?(?:(?:can|could|would|will) you (?:please )?)?", re.IGNORECASE)
_DETAIL = re.compile(r"^in (?:great |more )?detail,? | in (?:great |more )?detail$", re.IGNORECASE)
# A verb can follow these words, so they may begin a second request; before "the", "its" and the like they do not.
_SECOND = re.compile(
    r"[,;:] |\b(?:and|or|then|but)\b(?! (?:the|an?|its|his|her|their)\b)", re.IGNORECASE
)
# "being" or a noun in -ing may be the verb that the question really asks by ("What is the owner of the dog holding?").
_HIDDEN_VERB = re.compile(
    r"(?<!\bthe)(?<!\bthis)(?<!\ba)(?<!\bof)(?<!\bin) \w+ing\b", re.IGNORECASE
)

_OPEN_END = re.compile(r" (?:about|at|by|for|from|in|like|of|on|to|with)$", re.IGNORECASE)
_ASKING = re.compile(
    r"(?P<wh>(?:what|which|who)(?: (?!that\b)[\w-]+){0,4}?) (?P<be>is|are|(?:can|could|might) be) "
    r"(?P<asked>(?P<participle>(?:being )?(?:\w+ed|shown|seen|worn|held|taken|given|made|written) )?.+)",
    re.IGNORECASE,
)
"""A question word that is the subject itself, or "what is" and a thing."""


def parts_of(question: str) -> Mapping[str, str]:
    """The parts by name, without the mark at the end; `quoted` is always there, whole.

    verb, object: "describe" and "the picture" of "Describe the picture."; only where the question starts with the verb.
    text: "your description of the picture", of an order to speak about something, however it starts.
    product: "a caption for it", of an order to make one thing.
    wh, be, asked: "what", "is", "the mood of the person" of "What is the mood of the person?"; "what breed", "is", "shown
        here" of "What breed is shown here?", whose subject is the question word.
    """
    quoted = " ".join(question.split())
    body = quoted.rstrip(" .?!")
    start = _LEADS.match(body)
    assert start is not None, "it matches the empty text"
    order = body[start.end() :]
    parts = {"quoted": quoted, **_ordered(order), **_asked(body)}
    if "text" in parts or "product" in parts:
        verb, _, rest = order.partition(" ")
        parts |= {"verb": verb.capitalize(), "object": rest} if not start.end() else {}
    return parts


def _ordered(order: str) -> dict[str, str]:
    verb, _, rest = order.partition(" ")
    said = _SAYINGS.get(verb.lower())
    detailed = "detailed " if said and _DETAIL.search(rest) else ""
    thing = _DETAIL.sub("", rest) if said else rest
    first = thing.partition(" ")[0].lower()
    if _SECOND.search(thing) or re.search(r"[.?!] ", thing):
        return {}
    if said and first in _STARTS:
        return {"text": f"your {detailed}{said} {thing}"}
    if verb.lower() in _MAKING and first in ("a", "an"):
        return {"product": thing}
    return {}


def _asked(body: str) -> dict[str, str]:
    found = _ASKING.fullmatch(body)
    if found is None or _SECOND.search(body) or re.search(r"[.?!] ", body):
        return {}
    parts = {
        name: text for name, text in found.groupdict().items() if name in ("wh", "be", "asked")
    }
    parts["wh"] = parts["wh"].lower()
    if found["participle"] is not None:
        return parts
    # "the <noun> of ..." is whole unless a verb of its own, or a preposition left at the end, follows it.
    named = re.match(r"the (?:\w+ ){1,2}(?:of|for|behind) \w+", parts["asked"], re.IGNORECASE)
    hidden = _HIDDEN_VERB.search(parts["asked"]) or _OPEN_END.search(parts["asked"])
    plain = (parts["wh"], parts["be"]) in (("what", "is"), ("what", "are"))
    return parts if plain and named and not hidden else {}
