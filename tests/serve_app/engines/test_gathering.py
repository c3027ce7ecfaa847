"""Questions that come close together share a pass; one that is rejected costs only itself."""

import asyncio
from collections.abc import Sequence

import pytest

from safemirage.config.generators import DecodingConfig
from safemirage.evaluation.generators import GeneratorUnavailable, RequestRejected
from safemirage.evaluation.generators.scripted import ScriptedGenerator
from safemirage.evaluation.types import Generation, Request
from serve_app.engines.gathering import Gatherer

pytestmark = pytest.mark.anyio
GREEDY = DecodingConfig()


def answer(request: Request) -> str:
    if request.question == "bad":
        raise RequestRejected("too long")
    if request.question == "gone":
        raise GeneratorUnavailable("out of memory")
    return request.question.upper()


def gatherer(batch: int = 8) -> tuple[Gatherer, ScriptedGenerator]:
    generator = ScriptedGenerator(answer, version="1")
    return Gatherer(generator, batch=batch, wait_s=0.01), generator


async def ask(made: Gatherer, text: str, decoding: DecodingConfig = GREEDY) -> str:
    [generation] = await made.generate([Request(question=text)], decoding)
    return generation.text


async def test_questions_at_a_time_share_passes_of_the_batch_size() -> None:
    made, generator = gatherer(batch=8)
    texts = [f"q{number}" for number in range(20)]
    answers = await asyncio.gather(*(ask(made, text) for text in texts))
    assert answers == [text.upper() for text in texts]
    assert sorted(generator.batches) == [4, 8, 8]


async def test_questions_share_a_pass_unless_more_than_the_seed_differs() -> None:
    made, generator = gatherer()
    warm = [DecodingConfig(temperature=1.0, seed=seed) for seed in (1, 2)]
    hot = DecodingConfig(temperature=2.0, seed=1)
    cold = [GREEDY, DecodingConfig(seed=5, top_p=0.5)]
    await asyncio.gather(*(ask(made, "a", decoding) for decoding in (*warm, hot, *cold)))
    assert generator.batches == [2, 1, 2], "in the order in which the first of each came"


async def test_list_is_a_pass_of_its_own() -> None:
    made, generator = gatherer(batch=2)
    requests = [Request(question=f"q{number}") for number in range(5)]
    assert len(await made.generate(requests, GREEDY)) == 5
    assert generator.batches == [5]


async def test_question_that_is_rejected_costs_only_itself() -> None:
    made, _ = gatherer()
    answers = await asyncio.gather(
        *(ask(made, text) for text in ("a", "bad", "c")), return_exceptions=True
    )
    assert answers[0] == "A"
    assert isinstance(answers[1], RequestRejected)
    assert answers[2] == "C"


async def test_model_that_is_gone_is_told_to_all_and_does_not_block() -> None:
    made, _ = gatherer()
    answers = await asyncio.gather(
        *(ask(made, text) for text in ("a", "gone")), return_exceptions=True
    )
    assert [type(item) for item in answers] == [GeneratorUnavailable, GeneratorUnavailable]
    assert await ask(made, "again") == "AGAIN"


async def test_caller_that_goes_away_leaves_the_others_their_answers_and_is_not_asked_for() -> None:
    made, generator = gatherer()
    leaving = asyncio.create_task(ask(made, "a"))
    staying = asyncio.create_task(ask(made, "b"))
    await asyncio.sleep(0)
    leaving.cancel()
    assert await staying == "B"
    assert generator.batches == [1]
    with pytest.raises(asyncio.CancelledError):
        await leaving


async def test_crowd_that_goes_away_while_a_pass_runs_costs_no_pass() -> None:
    made, generator = gatherer(batch=2)
    held = asyncio.Event()

    async def slow(requests: Sequence[Request], decoding: DecodingConfig) -> list[Generation]:
        await held.wait()
        return await ScriptedGenerator.generate(generator, requests, decoding)

    generator.generate = slow  # type: ignore[method-assign]
    first = asyncio.create_task(ask(made, "a"))
    await asyncio.sleep(0.05)
    crowd = [asyncio.create_task(ask(made, f"q{number}")) for number in range(10)]
    await asyncio.sleep(0)
    for task in crowd:
        task.cancel()
    last = asyncio.create_task(ask(made, "z"))
    await asyncio.sleep(0)
    held.set()
    assert [await first, await last] == ["A", "Z"]
    assert generator.batches == [1, 1]
