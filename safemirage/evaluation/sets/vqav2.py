"""VQA v2 (Goyal et al. 2017, arXiv 1612.00837): val has 214,354 questions, test 447,793, whose answers are not public.

Format: visualqa.org/download.html and github.com/GT-Vision-Lab/VQA, PythonHelperTools/vqaTools/vqa.py, vqaDemo.py and
PythonEvaluationTools/vqaEvaluation/vqaEval.py, commit a013f00: {"data_subtype", "questions": [{"question_id", "image_id",
"question"}]} and {"annotations": [{"question_id", "answer_type", "answers": [{"answer", ...} x 10]}]}.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safemirage.config.sets import VQAv2Config
from safemirage.data.records import DataError
from safemirage.evaluation.cases import Case
from safemirage.evaluation.sets.reading import SetFile, read_json_object, records_in
from safemirage.evaluation.sets.short_answers import (
    ANSWER_TYPE,
    QUESTION_ID,
    SHORT_ANSWER,
    references_in,
    short_answer_case,
)

_DEV = "test-dev2015"  # its pictures are test2015's


def vqav2_cases(config: VQAv2Config) -> list[Case]:
    """In the order of the questions. With annotations each question must have one."""
    file = SetFile(config.questions, config.images)
    tree = read_json_object(file.path)
    pictures = str(tree.get("data_subtype")).replace(_DEV, "test2015")
    annotated = None if config.annotations is None else _annotations(config.annotations)
    cases = []
    for name, record in _by_id(file, tree, "questions").items():
        image_id = record.get("image_id")
        number = image_id if isinstance(image_id, int) else 0
        image = file.image_file(name, f"COCO_{pictures}_{number:012d}.jpg", "image_id")
        prompt = f"{file.text(name, record, 'question')}{SHORT_ANSWER}"
        truth = {QUESTION_ID: name}
        references = None
        if annotated is not None:
            annotation = annotated.get(name)
            if annotation is None:
                file.wrong(name, "question_id", f"has no annotation in {config.annotations}")
                continue
            references = references_in(file, name, annotation.get("answers"))
            truth[ANSWER_TYPE] = file.text(name, annotation, "answer_type")
        cases.append(
            short_answer_case("vqav2", name, prompt, image, references=references, truth=truth)
        )
    return file.finish(cases)


def question_ids(path: Path) -> list[int]:
    """The ids in a question file, in its order. Raises DataError where it cannot be used."""
    file = SetFile(str(path))
    ids = [int(name) for name in _by_id(file, read_json_object(path), "questions")]
    file.check()
    return ids


def _annotations(path: str) -> dict[str, dict[str, Any]]:
    file = SetFile(path)
    found = _by_id(file, read_json_object(file.path), "annotations")
    file.check()
    return found


def _by_id(file: SetFile, tree: Mapping[str, Any], field: str) -> dict[str, dict[str, Any]]:
    """Question id -> record."""
    items = tree.get(field)
    if not isinstance(items, list) or not items:
        raise DataError(file.path, f"needs an object with a list `{field}` of at least one record")
    named = {f"#{index}": item for index, item in enumerate(items)}
    found: dict[str, dict[str, Any]] = {}
    for place, record in records_in(file, named).items():
        number = record.get("question_id")
        if not isinstance(number, int) or str(number) in found:
            file.wrong(place, "question_id", f"{number!r} is not a number, or stands twice")
            continue
        found[str(number)] = record
    return found
