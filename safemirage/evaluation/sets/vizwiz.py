"""VizWiz-VQA (Gurari et al. 2018, arXiv 1802.08218): blind people's questions; val has 4,319, test 8,000 without answers.

Format: the VizWiz API's vqaEval.py (Qing Li), read in a public copy, and github.com/haotian-liu/LLaVA,
docs/Evaluation.md and scripts/convert_vizwiz_for_submission.py, commit c121f04: a list of {"image", "question", "answers":
[{"answer", ...} x 10], "answer_type", "answerable"}; test.json has image and question alone. Prompt: LLaVA-1.5's, as
github.com/EvolvingLMMs-Lab/lmms-eval, lmms_eval/tasks/vizwiz_vqa, commit 75571cf, has it; the question stays as it is written.
"""

from pathlib import Path

from safemirage.config.sets import VizWizConfig
from safemirage.data.records import read_json_records
from safemirage.evaluation.cases import Case
from safemirage.evaluation.sets.reading import SetFile, records_in
from safemirage.evaluation.sets.short_answers import (
    ANSWER_TYPE,
    IMAGE_NAME,
    SHORT_ANSWER,
    references_in,
    short_answer_case,
)

ANSWERABLE = "answerable"
"""In the truth: `1`, or `0` where people could not answer."""
_INSUFFICIENT = "\nWhen the provided information is insufficient, respond with 'Unanswerable'."


def vizwiz_cases(config: VizWizConfig) -> list[Case]:
    """In the file's order; each question has a picture of its own, and is known by it."""
    file = SetFile(config.annotations, config.images)
    items = read_json_records(Path(config.annotations).expanduser())
    named = {f"#{index}": item for index, item in enumerate(items)}
    records = records_in(file, named)
    with_answers = any("answers" in record for record in records.values())
    cases = []
    for place, record in records.items():
        name = file.text(place, record, "image") or place
        truth = {IMAGE_NAME: name}
        references = None
        if with_answers:
            references = references_in(file, name, record.get("answers"))
            truth[ANSWER_TYPE] = file.text(name, record, "answer_type")
            answerable = record.get("answerable")
            if answerable not in (0, 1):
                file.wrong(name, "answerable", f"{answerable!r} is not allowed; allowed: 0, 1")
            truth[ANSWERABLE] = str(answerable)
        prompt = f"{file.text(name, record, 'question')}{_INSUFFICIENT}{SHORT_ANSWER}"
        image = file.image_file(name, name)
        cases.append(
            short_answer_case("vizwiz", name, prompt, image, references=references, truth=truth)
        )
    return file.finish(cases)
