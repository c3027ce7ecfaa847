"""bitsandbytes on the GPU; skipped where the package is not installed."""

import asyncio
from pathlib import Path
from typing import Literal

import pytest
import torch

from safemirage.config.generators import DecodingConfig
from safemirage.config.weights import BitsAndBytesConfig, RoundToNearestConfig, WeightsConfig
from safemirage.evaluation.generators.transformers import TransformersGenerator
from safemirage.evaluation.types import ImageInput, Request
from safemirage.models.loading import load_for_inference
from tests.tiny import make_tiny_llava, tiny_image

REQUESTS = [Request(question="what is it?", image=ImageInput(tiny_image("red")))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_llava(tmp_path_factory.mktemp("gpu") / "model")


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_bitsandbytes_packs_the_layers_and_answers(
    folder: Path, kind: Literal["nf4", "int8"]
) -> None:
    pytest.importorskip("bitsandbytes")
    changes = WeightsConfig(quantisation=BitsAndBytesConfig(kind=kind))
    generator = TransformersGenerator.load(folder, device="cuda", dtype="bfloat16", changes=changes)
    (answer,) = asyncio.run(generator.generate(REQUESTS, DecodingConfig(max_new_tokens=8)))
    assert answer.completion_tokens > 0
    assert generator.key["quantisation"].startswith(f"bitsandbytes-{kind} ")
    generator.close()
    model = load_for_inference(folder, device="cuda", dtype="bfloat16", changes=changes).model
    layer = model.model.language_model.layers[0].mlp.down_proj
    assert layer.weight.element_size() == 1
    assert model.lm_head.weight.dtype == torch.bfloat16


def test_rounding_on_the_gpu_gives_the_weights_of_the_cpu(folder: Path) -> None:
    changes = WeightsConfig(quantisation=RoundToNearestConfig(bits=4))
    states = [
        load_for_inference(folder, device=device, changes=changes).model.state_dict()
        for device in ("cpu", "cuda")
    ]
    assert all(torch.equal(weight, states[1][name].cpu()) for name, weight in states[0].items())
