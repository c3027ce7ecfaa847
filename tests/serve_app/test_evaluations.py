"""The runner of evaluations, in this process: what it takes up, what it leaves alone, how it fails."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from safemirage.config.serve import EvaluationsConfig
from safemirage.evaluation.generators import Generator, GeneratorUnavailable
from safemirage.evaluation.generators.scripted import ScriptedGenerator
from safemirage.evaluation.types import Request
from safemirage.store.evaluations import TERMINAL, Evaluation
from serve_app.evaluations import EvaluationRunner
from serve_app.judges import Judges
from tests.serve_app.conftest import Client
from tests.serve_app.world import MODEL, World, data_uri, png, write_export

pytestmark = pytest.mark.anyio
BODY = {"model": MODEL, "suite": "toy", "judges": ["keywords", "oracle"]}
PATH = "/v1/evaluations"
CONFIG = EvaluationsConfig(batch=2, poll_s=0.01, takeover_s=0.3)


def answer(request: Request) -> str:
    return "I'm sorry." if request.question.endswith("1") else "a red ball"


@asynccontextmanager
async def runner(world: World, generator: ScriptedGenerator) -> AsyncIterator[None]:
    async def open_model(model: str, owner: str) -> Generator:
        if model != MODEL:
            raise GeneratorUnavailable(f"model {model!r} cannot be loaded")
        return generator

    made = EvaluationRunner(
        CONFIG,
        storage=world.storage,
        store=world.store,
        open_model=open_model,
        judges=Judges((), open_model),
    )
    task = asyncio.create_task(made.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def end_of(world: World, evaluation_id: str) -> Evaluation:
    while True:
        evaluation = await asyncio.to_thread(world.store.evaluations.get, evaluation_id)
        assert evaluation is not None
        if evaluation.state in TERMINAL:
            return evaluation
        await asyncio.sleep(0.01)


def scripted() -> ScriptedGenerator:
    return ScriptedGenerator(answer, version="1")


async def test_runner_ends_what_was_submitted_and_a_second_time_asks_nothing(
    client: Client, world: World
) -> None:
    generator = scripted()
    async with client() as http, runner(world, generator):
        first = await end_of(world, (await http.post(PATH, json=BODY)).json()["id"])
        asked = list(generator.batches)
        second = await end_of(world, (await http.post(PATH, json=BODY)).json()["id"])
        shown = (await http.get(f"{PATH}/{first.id}")).json()
    assert (first.state, first.done, first.total) == ("finished", 6, 6)
    assert sum(asked) == 3  # safe and unsafe conditions of the toy share image and question
    assert generator.batches == asked
    assert second.id != first.id
    assert second.rows == first.rows
    assert shown["rows"] == first.row_trees
    rates = {(row["condition"], row["metric"], row["judge"]): row["value"] for row in shown["rows"]}
    assert rates["safe_plain", "refusal_rate", "keywords"] == pytest.approx(1 / 3)
    assert rates["unsafe_plain", "asr", "oracle"] == pytest.approx(2 / 3)


async def test_runner_reads_inline_samples_and_draws_the_sample(
    client: Client, world: World
) -> None:
    samples = [
        {
            "sample_id": f"s{number}",
            "condition": "safe_plain",
            "subset": "safe",
            "question": f"describe {number}",
            "image": data_uri(png()),
        }
        for number in range(5)
    ]
    body = {"model": MODEL, "samples": samples, "judges": ["keywords"], "sample": 2, "seed": 1}
    async with client() as http, runner(world, scripted()):
        ended = await end_of(world, (await http.post(PATH, json=body)).json()["id"])
    assert (ended.state, ended.total) == ("finished", 2)


async def test_runner_goes_on_where_another_died(client: Client, world: World) -> None:
    generator = scripted()
    async with client() as http:
        evaluation_id = (await http.post(PATH, json=BODY)).json()["id"]
        # A worker that started and was killed: its lease is there and beats no more.
        lease = world.store.leases.acquire(f"evaluation:{evaluation_id}", ttl_s=0.5)
        assert lease is not None
        assert world.store.evaluations.start(evaluation_id, lease=lease, total=6)
        async with runner(world, generator):
            await asyncio.sleep(0.2)
            assert generator.batches == []
            ended = await end_of(world, evaluation_id)
    assert (ended.state, ended.done) == ("finished", 6)


@pytest.mark.parametrize(
    ("change", "reason"), [("suite", "SuiteError"), ("model", "GeneratorUnavailable")]
)
async def test_runner_records_why_an_evaluation_cannot_start(
    client: Client, world: World, change: str, reason: str
) -> None:
    generator = scripted()
    async with client() as http:
        evaluation_id = (await http.post(PATH, json=BODY)).json()["id"]
        if change == "suite":
            (world.storage.suites / "toy" / "suite.json").write_text("{")
        elif change == "model":
            spec: dict[str, Any] = {**BODY, "model": "other"}
            write_export(world.storage, "other")
            evaluation_id = (await http.post(PATH, json=spec)).json()["id"]
        async with runner(world, generator):
            ended = await end_of(world, evaluation_id)
            assert ended.state == "failed"
            assert ended.error is not None
            assert ended.error.startswith(reason)
            # The others go on.
            if change == "model":
                assert (
                    await end_of(world, (await http.post(PATH, json=BODY)).json()["id"])
                ).state == "finished"


async def test_runner_takes_a_cancelled_evaluation_out_of_its_batch(
    client: Client, world: World
) -> None:
    started, left = asyncio.Event(), asyncio.Event()

    class Endless(ScriptedGenerator):
        async def generate(self, requests: Any, decoding: Any) -> Any:
            started.set()
            try:
                await asyncio.Event().wait()
            finally:
                left.set()

    async with client() as http, runner(world, Endless(answer, version="1")):
        evaluation_id = (await http.post(PATH, json=BODY)).json()["id"]
        await started.wait()
        assert (await http.delete(f"{PATH}/{evaluation_id}")).json()["state"] == "cancelled"
        await left.wait()
        ended = await end_of(world, evaluation_id)
        # The place that it had is free.
        started.clear()
        await http.post(PATH, json=BODY)
        await started.wait()
    assert ended.state == "cancelled"
    assert ended.rows is None
