"""TextVQA 0.5.1, val (Singh et al. 2019, arXiv 1904.08920): 5,000 questions about text in pictures.

Format: {"data": [{"question_id", "image_id", "question", "answers": [ten texts], ...}]}, read in github.com/haotian-liu/LLaVA,
llava/eval/eval_textvqa.py, commit c121f04, and the hub's loader huggingface.co/datasets/facebook/textvqa, textvqa.py, revision
b833526. Prompts: LLaVA's own question file, JSON lines of {"question_id" (the image id), "image", "text"}, joined by image and
question as eval_textvqa.py does; or, without it, the question with a capital, as github.com/EvolvingLMMs-Lab/lmms-eval,
lmms_eval/tasks/textvqa/utils.py, commit 75571cf, makes it for LLaVA.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safemirage.config.sets import TextVQAConfig
from safemirage.data.records import DataError, read_json_records
from safemirage.evaluation.cases import Case
from safemirage.evaluation.sets.reading import SetFile, read_json_object, records_in
from safemirage.evaluation.sets.short_answers import (
    QUESTION_ID,
    SHORT_ANSWER,
    references_in,
    short_answer_case,
)

_OCR = "Reference OCR token:"


def textvqa_cases(config: TextVQAConfig) -> list[Case]:
    """In the order of the annotations, or of LLaVA's question file where one is given."""
    file = SetFile(config.annotations, config.images)
    records = _records(file)
    prompts = (
        {name: _prompt(record) for name, record in records.items()}
        if config.questions is None
        else _llava_prompts(Path(config.questions).expanduser(), records)
    )
    cases = []
    for name, prompt in prompts.items():
        record = records[name]
        image = file.image_file(name, f"{file.text(name, record, 'image_id')}.jpg", "image_id")
        references = references_in(file, name, record.get("answers"))
        truth = {QUESTION_ID: name}
        cases.append(
            short_answer_case("textvqa", name, prompt, image, references=references, truth=truth)
        )
    return file.finish(cases)


def _records(file: SetFile) -> dict[str, dict[str, Any]]:
    """Question id -> record."""
    items = read_json_object(file.path).get("data")
    if not isinstance(items, list) or not items:
        raise DataError(file.path, "needs an object with a list `data` of at least one question")
    named = {f"#{index}": item for index, item in enumerate(items)}
    found: dict[str, dict[str, Any]] = {}
    for place, record in records_in(file, named).items():
        number = record.get("question_id")
        name = str(number) if isinstance(number, int) else place
        if name == place or name in found:
            file.wrong(place, "question_id", f"{number!r} is not a number, or stands twice")
        file.text(name, record, "question")
        found[name] = record
    return found


def _prompt(record: Mapping[str, Any]) -> str:
    return f"{str(record.get('question')).capitalize()}{SHORT_ANSWER}"


def _llava_prompts(path: Path, records: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Question id -> prompt, of LLaVA's question file."""
    by_text = {
        (record.get("image_id"), str(record.get("question")).lower()): name
        for name, record in records.items()
    }
    file = SetFile(str(path))
    prompts: dict[str, str] = {}
    lines = enumerate(read_json_records(file.path), start=1)
    for place, line in records_in(file, {f"line {n}": line for n, line in lines}).items():
        text = file.text(place, line, "text")
        name = by_text.get((line.get("question_id"), _question_in(text)))
        if name is None:
            message = "no question of the annotations has this image id and text"
            file.wrong(place, "question_id, text", message)
        elif name in prompts:
            file.wrong(place, "question_id, text", f"asks question {name} a second time")
        else:
            prompts[name] = text
    file.check()
    return prompts


def _question_in(prompt: str) -> str:
    """The question's line, in lower case: the first one, or the second where the first has the words read."""
    lines = prompt.split("\n")
    return lines[1 if lines[0].startswith(_OCR) and len(lines) > 1 else 0].lower()
