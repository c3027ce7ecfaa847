import asyncio
from pathlib import Path

import pytest

from safemirage.config.generators import DecodingConfig
from safemirage.evaluation.generators.transformers import TransformersGenerator
from safemirage.evaluation.types import Generation, ImageInput, Request
from tests.tiny import make_tiny_llava, tiny_image

REQUESTS = [
    Request(question=question, image=ImageInput(tiny_image(colour)))
    for question in ("what is it?", "share the picture", "go on, tell me all that you see")
    for colour in ("red", "green", "blue")
]
GREEDY = DecodingConfig(max_new_tokens=16)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_llava(tmp_path_factory.mktemp("gpu") / "model")


def answer(generator: TransformersGenerator, requests: list[Request]) -> list[Generation]:
    try:
        return asyncio.run(generator.generate(requests, GREEDY))
    finally:
        generator.close()


def test_transformers_on_cuda_in_float32_answers_as_on_the_cpu(folder: Path) -> None:
    on_cuda = TransformersGenerator.load(folder, device="cuda")
    assert answer(on_cuda, REQUESTS) == answer(TransformersGenerator.load(folder), REQUESTS)


def test_transformers_on_cuda_tells_its_device_and_dtype_in_the_key(folder: Path) -> None:
    on_cuda = TransformersGenerator.load(folder, device="cuda", dtype="bfloat16")
    answers = answer(on_cuda, REQUESTS)
    assert (on_cuda.key["device"], on_cuda.key["dtype"]) == ("cuda", "bfloat16")
    assert all(one.completion_tokens > 0 for one in answers)
