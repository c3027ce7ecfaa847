"""Chats of many callers share the steps of a real model: what is counted are the steps, not the time."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from safemirage.config.generators import DecodingConfig
from safemirage.evaluation.generators.live import LiveTransformers
from safemirage.evaluation.generators.speech import ChatAnswer, Delta
from safemirage.evaluation.generators.transformers import TransformersGenerator
from safemirage.evaluation.judges import Judged
from safemirage.evaluation.types import Request, Verdict
from serve_app.engines.checkpoints import LoadedExport
from serve_app.http.api import ApiSettings, create_api
from serve_app.service import Service
from tests.serve_app.world import MODEL, World
from tests.tiny import make_tiny_llava

pytestmark = [pytest.mark.anyio, pytest.mark.model]
PATH = "/v1/chat/completions"
CALLERS = 32
TOKENS = 12


class Engine:
    """One model behind its queue, as a replica has it."""

    def __init__(self, model: TransformersGenerator) -> None:
        self._decoder = model.decoder
        self._before = model.decoder.num_steps
        self._loaded = LoadedExport(LiveTransformers(model), rows=CALLERS)

    @property
    def steps(self) -> int:
        return self._decoder.num_steps - self._before

    async def answer(
        self, model: str, request: Request, decoding: DecodingConfig, *, owner: str
    ) -> ChatAnswer:
        return await self._loaded.answer(request, decoding, owner)

    def stream(
        self, model: str, request: Request, decoding: DecodingConfig, *, owner: str
    ) -> AsyncIterator[Delta]:
        return self._loaded.stream(request, decoding, owner)

    async def judge(self, judge: str, items: Sequence[Judged]) -> list[Verdict]:
        raise NotImplementedError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Deep, so that a step takes longer than the callers do to ask."""
    return make_tiny_llava(tmp_path_factory.mktemp("deep") / "model", num_layers=48)


@pytest.fixture(scope="module")
def model(folder: Path) -> Iterator[TransformersGenerator]:
    generator = TransformersGenerator.load(folder)
    yield generator
    generator.close()


@pytest.fixture(scope="module")
def served_model(folder: Path) -> TransformersGenerator:
    return TransformersGenerator.load(folder, batch_size=CALLERS)


@pytest.fixture
def engine(served_model: TransformersGenerator) -> Engine:
    return Engine(served_model)


@asynccontextmanager
async def served(world: World, engine: Engine) -> AsyncIterator[httpx.AsyncClient]:
    service = Service(storage=world.storage, store=world.store, engines=engine)
    transport = httpx.ASGITransport(create_api(service, ApiSettings()))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
        yield http


async def crowd(http: httpx.AsyncClient, bodies: Sequence[dict[str, Any]]) -> list[str]:
    responses = await asyncio.gather(*(http.post(PATH, json=body) for body in bodies))
    assert {response.status_code for response in responses} == {200}
    return [response.json()["choices"][0]["message"]["content"] for response in responses]


def chat(number: int, **options: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": f"what is number {number}"}]
    return {"model": MODEL, "messages": messages, "max_tokens": TOKENS, **options}


async def test_chats_of_every_decoding_share_steps_and_say_what_each_says_alone(
    world: World, engine: Engine, model: TransformersGenerator
) -> None:
    decodings = [
        {"temperature": 0},
        {"temperature": 0, "seed": 9, "top_p": 0.7},
        {"temperature": 1.0, "seed": 3},
        {"temperature": 0.7, "top_p": 0.8, "seed": 2**63 + 1},
    ]
    bodies = [chat(number, **decodings[number % 4]) for number in range(CALLERS)]
    async with served(world, engine) as http:
        together = await crowd(http, bodies)
    # Each alone takes eleven steps after its first token; together they may come in at a few different steps.
    assert engine.steps <= 4 * TOKENS < CALLERS * (TOKENS - 1)
    for number in (0, 9, 18, 31):
        decoding = DecodingConfig(
            max_new_tokens=TOKENS, **{"temperature": 0, **decodings[number % 4]}
        )
        [alone] = await model.generate([Request(question=f"what is number {number}")], decoding)
        assert together[number] == alone.text


async def test_chats_without_options_are_sampled_anew(world: World, engine: Engine) -> None:
    async with served(world, engine) as http:
        together = await crowd(http, [{**chat(0), "max_tokens": 24} for _ in range(CALLERS)])
    assert engine.steps <= 4 * 24
    assert len(set(together)) == CALLERS


async def test_streams_are_told_token_by_token(world: World, engine: Engine) -> None:
    async with served(world, engine) as http:
        [whole] = await crowd(http, [chat(0, temperature=0)])
        response = await http.post(PATH, json=chat(0, temperature=0, stream=True))
    lines = [line[6:] for line in response.text.split("\n\n") if line.startswith("data: {")]
    said = [json.loads(line)["choices"][0]["delta"].get("content") for line in lines]
    assert "".join(filter(None, said)) == whole
    assert len(list(filter(None, said))) > 3
