"""ScienceQA (Lu et al. 2022, arXiv 2209.09513): school questions with up to five options; test has 4,241.

Format: github.com/lupantech/ScienceQA, README.md and tools/evaluate_acc.py, commit 2cbf831: problems.json, an object of
question id -> {"question", "choices", "answer" (index), "hint", "image" (file name or null), "grade", "subject", ...}, and
pid_splits.json, an object of split -> ids. Prompt: LLaVA-1.5's question file llava_test_CQM-A.json, as two of its records
are quoted in public code ("Context: <hint>", the question, a line an option), with the sentence that llava/eval/model_vqa_science.py
of github.com/haotian-liu/LLaVA, commit c121f04, adds.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safemirage.config.sets import ScienceQAConfig
from safemirage.data.records import DataError
from safemirage.evaluation.cases import Case
from safemirage.evaluation.judges.accuracy import CHOICES, LETTERS, RIGHT_CHOICE
from safemirage.evaluation.sets.reading import SetFile, read_json_object, records_in

SUBJECT, GRADE, HAS_HINT = "subject", "grade", "has_hint"
"""In the truth: what ScienceQA's table is broken down by."""
_BY_LETTER = "\nAnswer with the option's letter from the given choices directly."


def scienceqa_cases(config: ScienceQAConfig) -> list[Case]:
    """The questions of one split, in the split's order."""
    file = SetFile(config.problems, config.images)
    problems = records_in(file, read_json_object(file.path))
    cases = []
    for name in _ids(Path(config.splits).expanduser(), config.split):
        record = problems.get(name)
        if record is None:
            file.wrong(name, "(whole record)", f"is in the split {config.split!r}, but not here")
            continue
        cases.append(_case(file, name, record))
    return file.finish(cases)


def _ids(path: Path, split: str) -> list[str]:
    ids = read_json_object(path).get(split)
    if not isinstance(ids, list) or not ids or not all(isinstance(item, str) for item in ids):
        raise DataError(path, f"holds no list of question ids for the split {split!r}")
    return ids


def _case(file: SetFile, name: str, record: Mapping[str, Any]) -> Case:
    choices = _choices(file, name, record.get("choices"))
    answer = record.get("answer")
    if not isinstance(answer, int) or not 0 <= answer < max(len(choices), 1):
        file.wrong(name, "answer", f"{answer!r} is not the index of a choice")
        answer = 0
    hint = record.get("hint")
    if not isinstance(hint, str):
        file.wrong(name, "hint", f"{hint!r} is not text")
        hint = ""
    image = record.get("image")
    options = "\n".join(f"{LETTERS[place]}. {choice}" for place, choice in enumerate(choices))
    context = f"Context: {hint}\n" if hint else ""
    return Case(
        sample_id=f"scienceqa/{name}",
        case="scienceqa",
        subset="safe",
        attack="plain",
        group_id=name,
        question=f"{context}{file.text(name, record, 'question')}\n{options}{_BY_LETTER}",
        image=file.image_file(name, f"{name}/{image}") if image else None,
        truth={
            CHOICES: str(len(choices)),
            RIGHT_CHOICE: LETTERS[answer],
            SUBJECT: file.text(name, record, "subject"),
            GRADE: file.text(name, record, "grade"),
            HAS_HINT: "true" if hint else "false",
        },
    )


def _choices(file: SetFile, name: str, choices: Any) -> list[str]:
    given = choices if isinstance(choices, list) else []
    texts = [choice for choice in given if isinstance(choice, str)]
    if len(texts) != len(given) or not 2 <= len(texts) <= len(LETTERS):
        file.wrong(name, "choices", f"{choices!r} must be a list of 2 to {len(LETTERS)} texts")
        return []
    return texts
