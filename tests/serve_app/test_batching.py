"""Chats of many callers share passes of a real model: what is counted are the passes, not the time."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from safemirage.config.generators import DecodingConfig
from safemirage.evaluation.generators.transformers import TransformersGenerator
from safemirage.evaluation.judges import Judged
from safemirage.evaluation.types import Generation, Request, Verdict
from serve_app.engines.gathering import Gatherer
from serve_app.http.api import ApiSettings, create_api
from serve_app.service import Service
from tests.serve_app.world import MODEL, World
from tests.tiny import make_tiny_llava

pytestmark = [pytest.mark.anyio, pytest.mark.model]
PATH = "/v1/chat/completions"
CALLERS = 32


class Counted:
    """A model that notes the size of each pass."""

    def __init__(self, model: TransformersGenerator) -> None:
        self._model = model
        self.key = model.key
        self.passes: list[int] = []

    async def generate(
        self, requests: Sequence[Request], decoding: DecodingConfig
    ) -> list[Generation]:
        self.passes.append(len(requests))
        return await self._model.generate(requests, decoding)


class Engine:
    """One model behind a gatherer, as a replica has it."""

    def __init__(self, model: TransformersGenerator) -> None:
        self._counted = Counted(model)
        self._gatherer = Gatherer(self._counted, batch=CALLERS, wait_s=0.005)

    @property
    def passes(self) -> list[int]:
        return self._counted.passes

    async def generate(
        self, model: str, requests: Sequence[Request], decoding: DecodingConfig
    ) -> list[Generation]:
        return await self._gatherer.generate(requests, decoding)

    async def judge(self, judge: str, items: Sequence[Judged]) -> list[Verdict]:
        raise NotImplementedError


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TransformersGenerator]:
    """Deep, so that a pass takes longer than the callers do to ask."""
    folder = make_tiny_llava(tmp_path_factory.mktemp("deep") / "model", num_layers=48)
    generator = TransformersGenerator.load(folder)
    yield generator
    generator.close()


@pytest.fixture
def engine(model: TransformersGenerator) -> Engine:
    return Engine(model)


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
    return {"model": MODEL, "messages": messages, "max_tokens": 12, **options}


async def test_greedy_chats_without_a_seed_share_passes(world: World, engine: Engine) -> None:
    bodies = [chat(number, temperature=0) for number in range(CALLERS)]
    async with served(world, engine) as http:
        await crowd(http, bodies)
    assert sum(engine.passes) == CALLERS
    assert len(engine.passes) <= 4, engine.passes


async def test_greedy_chats_share_passes_whatever_their_seed_and_top_p(
    world: World, engine: Engine
) -> None:
    bodies = [
        chat(number, temperature=0, seed=number, top_p=0.5 + number / 100)
        for number in range(CALLERS)
    ]
    async with served(world, engine) as http:
        await crowd(http, bodies)
    assert len(engine.passes) <= 4, engine.passes


async def test_sampled_chats_of_many_seeds_share_passes_and_say_what_each_says_alone(
    world: World, engine: Engine, model: TransformersGenerator
) -> None:
    bodies = [chat(number % 4, temperature=1.0, seed=number // 2) for number in range(CALLERS)]
    async with served(world, engine) as http:
        together = await crowd(http, bodies)
    assert len(engine.passes) <= 4, engine.passes
    alone = []
    for number in (0, 9, 18, 31):
        decoding = DecodingConfig(max_new_tokens=12, temperature=1.0, seed=number // 2)
        [one] = await model.generate([Request(question=f"what is number {number % 4}")], decoding)
        alone.append(one.text)
    assert [together[number] for number in (0, 9, 18, 31)] == alone
    assert len(set(together)) == CALLERS, "each row follows from its own seed and question"


async def test_chats_without_options_are_sampled_anew_in_shared_passes(
    world: World, engine: Engine
) -> None:
    bodies = [{**chat(0), "max_tokens": 24} for _ in range(CALLERS)]
    async with served(world, engine) as http:
        together = await crowd(http, bodies)
    assert len(engine.passes) <= 4, engine.passes
    assert len(set(together)) == CALLERS
