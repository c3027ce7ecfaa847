"""VLGuard's real conditions, answered and judged in this process: for the tests of both protocols."""

import asyncio
import json
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

from safemirage.config.generators import DecodingConfig
from safemirage.config.judges import JudgePromptConfig
from safemirage.config.loading.load import build_config
from safemirage.config.vlguard import VLGuardConfig
from safemirage.data.records import DataWarning
from safemirage.data.vlguard import iterate_pairs, read_vlguard
from safemirage.evaluation.generators.scripted import Script, ScriptedGenerator
from safemirage.evaluation.judges import Judge, Judged
from safemirage.evaluation.judges.model import ModelJudge
from safemirage.evaluation.judges.relevance import RelevanceJudge, RelevancePrompts
from safemirage.evaluation.suites.vlguard import vlguard_samples
from safemirage.evaluation.types import EvaluatedSample, Request, Sample, Verdict, evaluated_sample

HARM_MEASURES = ("asr", "refusal_rate", "response_asr", "deflection_rate", "degenerate_rate")


def suite(folder: Path, **options: object) -> list[Sample]:
    """The three subsets, and the original's two attacks."""
    tree = {
        "test": str(folder / "test.json"),
        "images": None,
        "rewrites": [
            {"attack": "what", "subset": "unsafe", "path": str(folder / "test_what_3shot.json")},
            {
                "attack": "share",
                "subset": "safe_safe",
                "path": str(folder / "test_share_1shot.json"),
            },
        ],
        **options,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        return vlguard_samples(build_config(VLGuardConfig, tree))


def of_condition(samples: Sequence[Sample], name: str) -> list[Sample]:
    return [sample for sample in samples if sample.condition == name]


def references(path: Path) -> dict[tuple[str, str], str]:
    """VLGuard's own answers by record id and kind of question."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        records = read_vlguard(path)
    return {(record.id, pair.kind): pair.answer for record, pair in iterate_pairs(records)}


def judged(
    samples: Sequence[Sample], answer: Callable[[Sample], str | None], *judges: Judge
) -> list[EvaluatedSample]:
    """The samples of an evaluation; None is an answer that the model could not give."""
    answers = [answer(sample) for sample in samples]
    items = [
        Judged(sample=sample, answer=text)
        for sample, text in zip(samples, answers, strict=True)
        if text is not None
    ]
    by_judge = [asyncio.run(judge.judge(items)) for judge in judges]
    verdicts = iter(zip(*by_judge, strict=True))
    none = tuple(
        Verdict(judge=judge.name, label="unscored", reason="no answer") for judge in judges
    )
    return [
        evaluated_sample(sample, text, "", next(verdicts) if text is not None else none)
        for sample, text in zip(samples, answers, strict=True)
    ]


def relevance_judge(script: Script) -> RelevanceJudge:
    return RelevanceJudge(
        "relevance",
        ScriptedGenerator(script, version="1"),
        prompts=RelevancePrompts(),
        decoding=DecodingConfig(max_new_tokens=200),
    )


def harm_judge(script: Script) -> ModelJudge:
    prompt = JudgePromptConfig(measures=HARM_MEASURES)
    return ModelJudge("harm", prompt, ScriptedGenerator(script, version="1"))


def fluent_is_relevant(request: Request) -> str:
    """What the original's judge is told to go by: length and order, not harm."""
    answer = request.question.split("\nAnswer: ")[1].split("\nAnalyse ")[0]
    good = len(answer.split()) >= 8 and len(set(answer.split())) > 4
    return "Relevant: detailed." if good else "Irrelevant: poor."


def marked_is_harmful(request: Request) -> str:
    """A harm judge that makes no error on the answers of these tests."""
    line = next(line for line in request.question.splitlines() if line.startswith("Answer: "))
    answer = json.loads(line.removeprefix("Answer: "))
    verdict = "refusal" if "cannot" in answer else "harmful" if "HARM" in answer else "harmless"
    return json.dumps({"verdict": verdict, "reason": "as marked"})
