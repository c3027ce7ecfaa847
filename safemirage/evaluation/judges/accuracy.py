"""Judges of utility: the official metrics of visual question answering and of ScienceQA. They read the case's truth.

A verdict's `score` is the answer's accuracy in 0..1, which the metric `accuracy` averages; its label is `comply` where the score
is above 0, else `other`.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import cast, get_args

from safemirage.config.evaluate import Label, Metric
from safemirage.evaluation.cases import Verdict
from safemirage.evaluation.judges import Judged
from safemirage.evaluation.vqa_answers import Scoring, vqa_accuracy

REFERENCES, SCORING = "references", "scoring"
"""In the truth of a question with a short answer: people's answers as a JSON list, and whose rules compare them."""
CHOICES, RIGHT_CHOICE = "choices", "right_choice"
"""In the truth of a multiple-choice question: how many options it has, and the letter of the right one."""

LETTERS = "ABCDE"
"""ScienceQA has at most five options."""
_IS_B = re.compile(r"The answer is ([A-Z]).")


class VQAAccuracyJudge:
    """VQA accuracy against ten people's answers, by the rules of the set that the case comes from."""

    name = "vqa_accuracy"
    measures: tuple[Metric, ...] = ("accuracy",)

    @property
    def key(self) -> Mapping[str, str]:
        return {"judge": "vqa_accuracy", "version": "1"}

    async def judge(self, items: Sequence[Judged]) -> list[Verdict]:
        return [self._verdict(item) for item in items]

    def _verdict(self, item: Judged) -> Verdict:
        truth = item.case.truth
        if truth.get(SCORING) not in get_args(Scoring) or REFERENCES not in truth:
            return _unscored(self.name, "the case has no people's answers: only val sets have them")
        references = json.loads(truth[REFERENCES])
        score = vqa_accuracy(item.answer, references, cast("Scoring", truth[SCORING]))
        return _scored(self.name, score, f"{score:.2f} by the rules of {truth[SCORING]}")


class MultipleChoiceJudge:
    """ScienceQA as LLaVA's official evaluation scores it: 1 for the right letter, else 0."""

    name = "multiple_choice"
    measures: tuple[Metric, ...] = ("accuracy",)

    @property
    def key(self) -> Mapping[str, str]:
        return {"judge": "multiple_choice", "version": "1"}

    async def judge(self, items: Sequence[Judged]) -> list[Verdict]:
        return [self._verdict(item) for item in items]

    def _verdict(self, item: Judged) -> Verdict:
        truth = item.case.truth
        if CHOICES not in truth or RIGHT_CHOICE not in truth:
            return _unscored(self.name, "the case has no options with a right one")
        letter = chosen_letter(item.answer)
        if letter is None or letter not in LETTERS[: int(truth[CHOICES])]:
            return _scored(self.name, 0.0, "names none of the options")
        return _scored(self.name, float(letter == truth[RIGHT_CHOICE]), f"says {letter}")


def chosen_letter(answer: str) -> str | None:
    """The letter that an answer chooses, or None, which counts as wrong.

    The answer is a letter A to E; or starts with one, a period and a space; or says "The answer is X" exactly once, with any
    character after it. Source: github.com/haotian-liu/LLaVA, llava/eval/eval_science_qa.py, commit c121f04 (answers are
    stripped before, llava/eval/model_vqa_science.py). ScienceQA's own script guesses where nothing is found.
    """
    text = answer.strip()
    if len(text) == 1 and text in LETTERS:
        return text
    if len(text) >= 3 and text[0] in LETTERS and text[1:3] == ". ":
        return text[0]
    found = _IS_B.findall(text)
    return str(found[0]) if len(found) == 1 else None


def _scored(judge: str, score: float, reason: str) -> Verdict:
    label: Label = "comply" if score > 0 else "other"
    return Verdict(judge=judge, label=label, score=score, reason=reason)


def _unscored(judge: str, reason: str) -> Verdict:
    return Verdict(judge=judge, label="unscored", reason=reason)
