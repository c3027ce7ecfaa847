"""What the sets of questions with short answers share: LLaVA-1.5's prompt, and ten people's answers in the truth."""

import json
from collections.abc import Mapping
from typing import Any

from safemirage.evaluation.cases import Case, ImageInput
from safemirage.evaluation.judges.accuracy import REFERENCES, SCORING
from safemirage.evaluation.sets.reading import SetFile
from safemirage.evaluation.vqa_answers import NUM_REFERENCES, Scoring

SHORT_ANSWER = "\nAnswer the question using a single word or phrase."
"""Behind every question. Source: github.com/haotian-liu/LLaVA, docs/Evaluation.md, commit c121f04."""
QUESTION_ID, IMAGE_NAME, ANSWER_TYPE = "question_id", "image_name", "answer_type"
"""In the truth, where the set has them: what a submission file names a question by, and the kind of its answer."""


def short_answer_case(
    scoring: Scoring,
    name: str,
    prompt: str,
    image: ImageInput | None,
    *,
    references: list[str] | None,
    truth: Mapping[str, str],
) -> Case:
    """The case of a question; `references` None where they are not public."""
    known = {} if references is None else {REFERENCES: json.dumps(references, ensure_ascii=False)}
    return Case(
        sample_id=f"{scoring}/{name}",
        case=scoring,
        subset="safe",
        attack="plain",
        group_id=name,
        question=prompt,
        image=image,
        truth={SCORING: scoring, **known, **truth},
    )


def references_in(file: SetFile, name: str, answers: Any) -> list[str]:
    """People's answers: ten texts, or ten objects with the text under `answer`."""
    items = answers if isinstance(answers, list) else []
    texts = [item.get("answer") if isinstance(item, dict) else item for item in items]
    found = [text for text in texts if isinstance(text, str)]
    if len(found) != NUM_REFERENCES or len(texts) != NUM_REFERENCES:
        message = f"holds {len(found)} texts, but each question has {NUM_REFERENCES} answers"
        file.wrong(name, "answers", message)
    return found
