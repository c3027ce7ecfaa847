"""An evaluation may ask in the original's way; its answers are then kept apart."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

import configs
from safemirage.config.evaluate import EvaluateConfig
from safemirage.config.generators import DecodingConfig, TransformersConfig
from safemirage.config.loading.load import build_config, load_config
from safemirage.evaluation.generators.asking import ModelCalls
from safemirage.evaluation.generators.build import open_generator
from safemirage.evaluation.run.process import run_evaluation
from safemirage.evaluation.types import ImageInput, Request
from safemirage.models.prompts import Prompter
from safemirage.store import open_store
from tests.evaluation.samples import sample_record, write_suite
from tests.models.originals import cropped_by_hand
from tests.tiny import make_tiny_llava, tiny_image

REQUESTS = [
    Request(question=question, image=ImageInput(tiny_image(colour, (80, 24))))
    for question in ("what is it?", "tell me")
    for colour in ("red", "blue")
]


async def answers(config: TransformersConfig) -> tuple[str, list[str]]:
    async with open_generator(config) as generator:
        given = await generator.generate(REQUESTS, DecodingConfig(max_new_tokens=16))
        return generator.key["processor"], [one.text for one in given]


def test_presets_of_an_evaluation_change_questions_images_and_the_key(tmp_path: Path) -> None:
    folder = make_tiny_llava(tmp_path / "model")
    trees = [
        {},
        {"presets": {"template": "llava_v1"}},
        {"presets": {"image_preprocessing": "pad"}},
        {"presets": {"image_preprocessing": "crop"}},
    ]
    given = [
        asyncio.run(answers(build_config(TransformersConfig, {"path": str(folder), **tree})))
        for tree in trees
    ]
    assert len({key for key, _ in given}) == 4
    texts = [texts for _, texts in given]
    assert texts[1] != texts[0]
    assert texts[2] != texts[0]
    # The tiny model's own preprocessing is the crop.
    assert texts[3] == texts[0]


def test_two_preprocessings_never_serve_each_other_from_the_store(tmp_path: Path) -> None:
    model = {"name": "transformers", "path": str(make_tiny_llava(tmp_path / "model"))}
    suite = write_suite(tmp_path / "suite", [sample_record(name) for name in "ab"])
    asked = []
    with open_store(f"sqlite:///{tmp_path / 'store.db'}") as store:
        for preprocessing in ("pad", "crop", "pad"):
            presets = {"template": "llava_v1", "image_preprocessing": preprocessing}
            tree = {"model": {**model, "presets": presets}, "suite": str(suite)}
            config = build_config(EvaluateConfig, {**tree, "decoding": {"max_new_tokens": 4}})
            calls = ModelCalls()
            asyncio.run(run_evaluation(config, store=store, calls=calls))
            asked.append(calls.answers)
        names = [evaluation.id for evaluation in store.evaluations.list()]
    assert asked == [2, 2, 0]
    assert len(names) == 2


SYSTEM = (
    "A chat between a curious human and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the human's questions. "
)


def test_the_papers_file_asks_with_the_originals_prompt_pixels_and_dtype(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(configs.__file__).parent / "evaluate" / "vlguard_paper.yaml"
    model = make_tiny_llava(tmp_path / "model")
    config = load_config(EvaluateConfig, path, [f"model.path={model}", "model.device=cpu"])
    assert isinstance(config.model, TransformersConfig)
    assert (config.model.dtype, config.decoding.temperature) == ("float16", 0)
    rendered: list[str] = []
    shown: list[Tensor] = []

    class Watched(Prompter):
        def prompt(self, *args: Any, **options: Any) -> str:
            rendered.append(super().prompt(*args, **options))
            return rendered[-1]

        def pixels(self, image: Image.Image) -> dict[str, Tensor]:
            made = super().pixels(image)
            shown.append(made["pixel_values"])
            return made

    monkeypatch.setattr("safemirage.evaluation.generators.transformers.Prompter", Watched)
    picture = Image.radial_gradient("L").resize((80, 40)).convert("RGB")
    picture.save(tmp_path / "picture.png")
    request = Request(
        question="What is this?", image=ImageInput((tmp_path / "picture.png").read_bytes())
    )

    async def ask() -> None:
        async with open_generator(config.model) as generator:
            await generator.generate([request], DecodingConfig(max_new_tokens=1))

    asyncio.run(ask())
    assert rendered == [SYSTEM + "USER: <image>\nWhat is this? ASSISTANT:"]
    (pixels,) = shown
    torch.testing.assert_close(pixels.float(), cropped_by_hand(picture), rtol=0, atol=1e-5)
