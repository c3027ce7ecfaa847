"""Short answers as VQA's official evaluations read them, and their accuracy against ten people's answers.

Sources:
- VQA v2: github.com/GT-Vision-Lab/VQA, PythonEvaluationTools/vqaEvaluation/vqaEval.py, commit a013f00
- TextVQA: the M4C evaluator of facebookresearch/mmf, read as LLaVA's official evaluation runs it: github.com/haotian-liu/LLaVA,
  llava/eval/m4c_evaluator.py and eval_textvqa.py, commit c121f04
- VizWiz: the VizWiz API's vqaEval.py (Qing Li), read in a public copy; it is VQA's script, but for what it normalises

All of them normalise by the rules below, to the letter; where those look odd, they are.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Literal, assert_never

Scoring = Literal["textvqa", "vqav2", "vizwiz"]
"""Whose rules say what is normalised before answers are compared."""

NUM_REFERENCES = 10
"""Answers by people to each question, in all three sets."""

_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_COMMA_IN_NUMBER = re.compile(r"\d,\d")
_PERIOD = re.compile(r"\.(?!\d)")
_MOST_PERIODS = 32
"""The scripts give re.UNICODE, which is 32, in the place of the number of periods that are taken out."""
_ARTICLES = frozenset({"a", "an", "the"})
_NUMBERS = "zero one two three four five six seven eight nine ten"
_DIGITS: Mapping[str, str] = {
    "none": "0",
    **{word: str(number) for number, word in enumerate(_NUMBERS.split())},
}
_CONTRACTED = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've he's
    how'd how'll how's isn't it'd it'd've it'll ma'am might've mightn't mightn't've must've mustn't needn't not've o'clock
    oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd
    someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've there're there's
    they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've when's where'd
    where's where've who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't wouldn't've y'all
    y'all'd've y'all'll you'd you'd've you'll you're you've
"""


def _one_apostrophe_short(word: str) -> list[str]:
    """The word without its first apostrophe, without its second, ...: what the scripts complete to the word."""
    return [word[:at] + word[at + 1 :] for at, letter in enumerate(word) if letter == "'"]


_CONTRACTIONS: Mapping[str, str] = {
    **{short: word for word in _CONTRACTED.split() for short in _one_apostrophe_short(word)},
    "somebody'd": "somebodyd",
}
"""The scripts' table. Its entries with capitals (Im, Ive) are left out: text is in lower case when it is looked up."""


def normalised(text: str) -> str:
    """Line ends and tabs as spaces, then punctuation, then digits, articles and contractions."""
    return _words(_without_punctuation(_flat(text)))


def m4c_normalised(text: str) -> str:
    """The same, after M4C's own steps: lower case, no commas, no question marks, `'s` as a word."""
    words = text.lower().replace(",", "").replace("?", "").replace("'s", " 's")
    return normalised(words.strip())


def soft_accuracy(answer: str, references: Sequence[str]) -> float:
    """The mean over the references of min(1, equal answers among the *other* references / 3).

    So with ten references an answer that 0, 1, 2, 3 or more of them gave has 0, 0.3, 0.6, 0.9 or 1.
    """
    equal = sum(reference == answer for reference in references)
    given = equal * min(1.0, (equal - 1) / 3) if equal else 0.0
    others = (len(references) - equal) * min(1.0, equal / 3)
    return (given + others) / len(references)


def vqa_accuracy(answer: str, references: Sequence[str], scoring: Scoring) -> float:
    """In 0..1, by the rules of one set's official evaluation.

    TextVQA normalises answer and references by M4C's steps. VQA v2 normalises both, but neither where all people gave
    the same answer. VizWiz normalises the answer alone; `unanswerable` is an answer like any other.
    """
    match scoring:
        case "textvqa":
            return soft_accuracy(m4c_normalised(answer), [m4c_normalised(r) for r in references])
        case "vqav2":
            plain = [_flat(reference) for reference in references]
            if len(set(plain)) == 1:
                return soft_accuracy(_flat(answer), plain)
            return soft_accuracy(normalised(answer), [normalised(item) for item in plain])
        case "vizwiz":
            return soft_accuracy(normalised(answer), list(references))
        case _:
            assert_never(scoring)


def _flat(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()


def _without_punctuation(text: str) -> str:
    """A mark is dropped where it touches a space anywhere in the text, or the text has a comma between digits; else
    it becomes a space. A period is dropped unless a digit follows."""
    has_number = _COMMA_IN_NUMBER.search(text) is not None
    result = text
    for mark in _PUNCTUATION:
        dropped = mark + " " in text or " " + mark in text or has_number
        result = result.replace(mark, "" if dropped else " ")
    return _PERIOD.sub("", result, count=_MOST_PERIODS)


def _words(text: str) -> str:
    digits = [_DIGITS.get(word, word) for word in text.lower().split()]
    kept = [word for word in digits if word not in _ARTICLES]
    return " ".join(_CONTRACTIONS.get(word, word) for word in kept)
