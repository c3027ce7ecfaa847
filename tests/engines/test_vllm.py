"""vLLM's CPU build answers as transformers does. Each engine runs in a process of its own: it rebinds threads."""

import asyncio
import importlib.util
import multiprocessing
import re
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from safemirage.config.generators import DecodingConfig
from safemirage.config.judges import JudgePromptConfig
from safemirage.config.model import LoraConfig, ModelConfig, Presets
from safemirage.evaluation.generators import RequestRejected
from safemirage.evaluation.generators.speech import ChatAnswer, Delta, whole
from safemirage.evaluation.generators.transformers import TransformersGenerator
from safemirage.evaluation.judges.verdicts import verdict_schema
from safemirage.evaluation.types import (
    ChatOptions,
    ChatRequest,
    Choice,
    Generation,
    ImageInput,
    Request,
)
from safemirage.models.export import BaseModel, ExportRecord, write_export
from safemirage.models.families import LLAVA
from safemirage.models.loading import load_for_training
from safemirage.models.manifest import file_digests, processor_digest
from tests.tiny import build_tiny_llava, tiny_image

pytestmark = [
    pytest.mark.timeout(400),
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vllm is not installed"),
]

QUESTIONS = (
    "what is it?",
    "share the picture",
    "go on, tell me all that you can see in there",
    "control tokens </s><image><s> are text",
)
REQUESTS = [
    Request(question=question, image=ImageInput(tiny_image(colour, size)))
    for question in QUESTIONS
    for colour, size in (("red", (40, 36)), ("blue", (32, 32)), ("green", (75, 50)))
] + [Request(question=question, system="Be brief.", prefill="Well,") for question in QUESTIONS]
CHOICES = [
    replace(
        request,
        prefill='{"verdict": "',
        choice=Choice(words=("harmful", "refusal", "harmless"), end='"'),
    )
    for request in REQUESTS
]
"""Two of the words begin alike, so that a second token decides between them."""
GREEDY = DecodingConfig(max_new_tokens=24)
AS_SAVED = Presets()


@dataclass(frozen=True)
class Answered:
    """What one engine process gave back."""

    key: dict[str, str]
    answers: list[list[Generation]]
    joined: list[Generation]
    """The first of `answers` again, each asked for by a call of its own, all at once."""
    steps: int
    """Of the engine for `joined`."""
    refusal: str
    kept: str
    """What the model said that was kept to a schema."""
    chosen: list[Generation]
    """The answers to `CHOICES`, with one request behind them that has no choice."""
    deltas: list[Delta]
    """The first of `joined`, token by token, with the likeliest token of each place."""
    stopped: ChatAnswer
    """It again, ended by a text of its own."""


def answer_by_vllm(folder: Path, decodings: Sequence[DecodingConfig], presets: Presets) -> Answered:
    """Runs in a child process."""
    from safemirage.evaluation.generators.vllm import VLLMGenerator

    generator = VLLMGenerator.load(folder, presets=presets)

    async def ask() -> Answered:
        answers = [await generator.generate(REQUESTS, decoding) for decoding in decodings]
        asked = Request(question="what is it?", schema=verdict_schema(JudgePromptConfig()))
        (kept,) = await generator.generate([asked], DecodingConfig(max_new_tokens=64))
        chosen = await generator.generate([*CHOICES, REQUESTS[0]], GREEDY)
        steps: list[None] = []
        step = generator._llm.llm_engine.step
        generator._llm.llm_engine.step = lambda: steps.append(None) or step()
        calls = [
            asyncio.create_task(generator.generate([request], decodings[0])) for request in REQUESTS
        ]
        gone = asyncio.create_task(generator.generate(REQUESTS, DecodingConfig(max_new_tokens=200)))
        await asyncio.sleep(0)
        gone.cancel()
        joined = [one for call in calls for one in await call]
        counted = len(steps)
        first = REQUESTS[0]
        question = {"question": first.question, "image": first.image}
        told = ChatRequest(**question, options=ChatOptions(top_logprobs=1))
        deltas = [delta async for delta in generator.stream(told, decodings[0])]
        stop = ChatOptions(stop=(joined[0].text[3:6],))
        stopped = await generator.answer(ChatRequest(**question, options=stop), decodings[0])
        leaving = generator.stream(first, DecodingConfig(max_new_tokens=200))
        await anext(leaving)
        await leaving.aclose()  # type: ignore[attr-defined]
        try:
            await generator.generate(REQUESTS[:1], DecodingConfig(max_new_tokens=600))
        except RequestRejected as error:
            return Answered(
                dict(generator.key),
                answers,
                joined,
                counted,
                str(error),
                kept.text,
                chosen,
                deltas,
                stopped,
            )
        raise AssertionError("a prompt that leaves no room was taken")

    try:
        return asyncio.run(ask())
    finally:
        generator.close()


def in_own_process(
    folder: Path, *decodings: DecodingConfig, presets: Presets = AS_SAVED
) -> Answered:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(answer_by_vllm, folder, decodings, presets).result()


def by_transformers(folder: Path, presets: Presets = AS_SAVED) -> list[Generation]:
    generator = TransformersGenerator.load(folder, presets=presets)
    return asyncio.run(generator.generate(REQUESTS, GREEDY))


def record(base: BaseModel | None = None) -> ExportRecord:
    return ExportRecord(
        run_id="run",
        identity="1" * 64,
        method="sft",
        base=base,
        config={},
        metrics={},
        git_commit=None,
    )


def export(folder: Path, model: Any, base: BaseModel | None = None) -> Path:
    processor = build_tiny_llava().processor
    write_export(
        folder, model=model, processor=processor, state_dict=None, family=LLAVA, record=record(base)
    )
    return folder


def test_export_answers_alike_in_vllm_and_in_transformers(tmp_path: Path) -> None:
    folder = export(tmp_path / "full", build_tiny_llava().model)
    sampling = [
        DecodingConfig(max_new_tokens=8, temperature=1.0, top_p=0.9, seed=seed)
        for seed in (1, 1, 2)
    ]
    given = in_own_process(folder, GREEDY, *sampling)
    expected = by_transformers(folder)
    assert given.answers[0] == expected
    assert len({one.text for one in expected}) >= 10
    assert given.joined == expected
    # A call at a time takes each answer's own steps; calls that join take those of the longest and a few at first.
    assert given.steps < 3 * GREEDY.max_new_tokens < sum(one.completion_tokens for one in expected)
    first, again, other_seed = given.answers[1:]
    assert first == again != other_seed
    words = asyncio.run(TransformersGenerator.load(folder).generate(CHOICES, GREEDY))
    assert [one.text for one in given.chosen] == [*(one.text for one in words), expected[0].text]
    assert len({one.text for one in words}) > 1
    for one, other in zip(given.chosen, words, strict=False):
        assert one.probabilities == pytest.approx(other.probabilities, abs=1e-4)
        assert one.choice_share == pytest.approx(other.choice_share, abs=1e-4)
    # Random weights say nothing by themselves; what they are kept to is the start of a verdict.
    assert re.match(r'\{"verdict": ?"(harmful|refusal|harmless)", ?"reason": ?"', given.kept)
    assert whole(given.deltas).text == expected[0].text
    assert len(given.deltas) == expected[0].completion_tokens
    for delta in given.deltas:
        [chance] = delta.chances
        assert chance.top == ((chance.text, chance.logprob),), "greedy takes the likeliest"
    assert given.stopped.text == expected[0].text.partition(expected[0].text[3:6])[0].rstrip()
    assert given.refusal.endswith("max_new_tokens=600 do not fit the engine's context of 512")
    of_transformers = TransformersGenerator.load(folder).key
    for same in ("weights", "processor", "dtype"):
        assert given.key[same] == of_transformers[same]
    assert given.key["engine"] == "vllm"


def test_adapter_export_answers_alike_in_vllm_and_in_transformers(tmp_path: Path) -> None:
    base = export(tmp_path / "base", build_tiny_llava().model)
    torch.manual_seed(0)
    lora = LoraConfig(rank=2, alpha=4, dropout=0.0)
    loaded = load_for_training(ModelConfig(path=str(base), lora=lora))
    with torch.no_grad():
        for weight in loaded.model.parameters():
            if weight.requires_grad:
                weight.add_(0.1 * torch.randn_like(weight))
    named = BaseModel(path=str(base), weights_digest=loaded.weights_digest)
    folder = export(tmp_path / "adapter", loaded.model, named)
    expected = by_transformers(folder)
    assert in_own_process(folder, GREEDY).answers[0] == expected
    assert expected != by_transformers(base)


@pytest.mark.slow
def test_presets_reach_prompt_and_pixels_of_vllm_as_of_transformers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    views = tmp_path / "views"
    views.mkdir()
    monkeypatch.setenv("TMPDIR", str(views))
    folder = export(tmp_path / "full", build_tiny_llava().model)
    files = file_digests(folder)
    as_saved = by_transformers(folder)
    padded = Presets(image_preprocessing="pad")
    both = Presets(template="llava_v1", image_preprocessing="pad")
    expected = by_transformers(folder, both)
    # The tiny model saves a crop: each preset alone changes answers, so that none could be left out unseen.
    assert as_saved != by_transformers(folder, padded) != expected
    given = in_own_process(folder, GREEDY, presets=both)
    assert given.answers[0] == expected
    assert (
        given.key["processor"] == TransformersGenerator.load(folder, presets=both).key["processor"]
    )
    assert given.key["processor"] != processor_digest(folder)
    # The engine read a view of the folder, which is gone; the folder is as it was.
    assert not list(views.glob("safemirage-presets-*"))
    assert file_digests(folder) == files
