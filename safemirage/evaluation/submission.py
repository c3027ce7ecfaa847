"""Submission files for test sets whose answers are not public, from a finished evaluation in the store.

vqav2   [{"question_id": 262144000, "answer": "blue"}, ...]: github.com/GT-Vision-Lab/VQA, PythonHelperTools/vqaTools/vqa.py
        (loadRes), commit a013f00. The server wants every question of test2015; where test-dev alone was asked, the others get
        an empty answer, as in github.com/haotian-liu/LLaVA, scripts/convert_vqav2_for_submission.py, commit c121f04
vizwiz  [{"image": "VizWiz_test_00000000.jpg", "answer": "unanswerable"}, ...]: the same repository,
        scripts/convert_vizwiz_for_submission.py

Answers are normalised by M4C's steps, as both of these scripts do.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safemirage.evaluation.errors import EvaluationError
from safemirage.evaluation.page import put_file
from safemirage.evaluation.sets.short_answers import IMAGE_NAME, QUESTION_ID
from safemirage.evaluation.sets.vqav2 import question_ids
from safemirage.evaluation.stored import StoredEvaluation
from safemirage.evaluation.vqa_answers import m4c_normalised

_KEYS: Mapping[str, tuple[str, str]] = {
    "vqav2": ("question_id", QUESTION_ID),
    "vizwiz": ("image", IMAGE_NAME),
}
"""Case -> what a line names its question by, and where the truth has it."""
_SHOWN = 5


def write_submission(
    one: StoredEvaluation, path: Path, *, all_questions: Path | None = None
) -> int:
    """Writes the file, reads it again, and returns its number of lines.

    Args:
        all_questions: VQA v2's question file of the whole test set; its questions that were not asked get an empty answer.

    Raises:
        EvaluationError: the evaluation asked no such set, or has questions without an answer.
        DataError: `all_questions` cannot be used.
    """
    lines = submission_lines(one)
    key = next(iter(lines[0]))
    if all_questions is not None:
        lines = _filled(one, lines, all_questions.expanduser())
    path.parent.mkdir(parents=True, exist_ok=True)
    put_file(path, json.dumps(lines))
    check_submission(path, key, [line[key] for line in lines])
    return len(lines)


def submission_lines(one: StoredEvaluation) -> list[dict[str, Any]]:
    """A line a question, in the evaluation's order. Raises EvaluationError as `write_submission` does."""
    cases = sorted({sample.case for sample in one.samples})
    if len(cases) != 1 or cases[0] not in _KEYS:
        raise EvaluationError(
            f"evaluation {one.id} asked {cases}; there are submission files for: {', '.join(_KEYS)}"
        )
    key, in_truth = _KEYS[cases[0]]
    silent = [sample for sample in one.samples if sample.answer is None]
    if silent:
        shown = ", ".join(f"{sample.sample_id} ({sample.error})" for sample in silent[:_SHOWN])
        raise EvaluationError(
            f"evaluation {one.id}: {len(silent)} questions have no answer: {shown}; evaluate them again first"
        )
    lines: list[dict[str, Any]] = []
    for sample in one.samples:
        name = sample.truth[in_truth]
        answer = m4c_normalised(sample.answer or "")
        lines.append({key: int(name) if key == "question_id" else name, "answer": answer})
    return lines


def check_submission(path: Path, key: str, names: Sequence[Any]) -> None:
    """Reads a submission file as a server would.

    Raises:
        EvaluationError: it is no list of objects with `key` and a text `answer`, or not one for each of `names`.
    """
    lines = json.loads(path.read_text(encoding="utf-8"))
    wrong = [
        line
        for line in lines
        if not isinstance(line, dict)
        or line.keys() != {key, "answer"}
        or not isinstance(line["answer"], str)
    ]
    if wrong:
        raise EvaluationError(f"{path}: {len(wrong)} lines are not of {key} and answer: {wrong[0]}")
    found, wanted = Counter(line[key] for line in lines), Counter(names)
    if found != wanted or max(wanted.values(), default=0) > 1:
        odd = sorted(str(name) for name in found.keys() ^ wanted.keys())
        odd += sorted(str(name) for name, times in found.items() if times > 1)
        raise EvaluationError(f"{path}: does not answer each question once: {odd[:_SHOWN]}")


def _filled(
    one: StoredEvaluation, lines: Sequence[Mapping[str, Any]], all_questions: Path
) -> list[dict[str, Any]]:
    if next(iter(lines[0])) != "question_id":
        raise EvaluationError(f"evaluation {one.id}: only VQA v2 has questions that go unasked")
    ids = question_ids(all_questions)
    answers = {line["question_id"]: line["answer"] for line in lines}
    if unknown := sorted(answers.keys() - set(ids)):
        raise EvaluationError(
            f"evaluation {one.id}: {len(unknown)} of its questions are not in the whole set: {unknown[:_SHOWN]}"
        )
    return [{"question_id": number, "answer": answers.get(number, "")} for number in ids]
