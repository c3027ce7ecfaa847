"""Questions that come close together share a pass; one that is rejected costs only itself."""

import asyncio

import pytest

from safemirage.config.evaluate import DecodingConfig
from safemirage.evaluation.cases import Request
from safemirage.evaluation.generators import GeneratorUnavailable, RequestRejected
from safemirage.evaluation.generators.scripted import ScriptedGenerator
from serve_app.gathering import Gatherer

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


async def test_questions_with_other_decoding_do_not_share() -> None:
    made, generator = gatherer()
    sampled = DecodingConfig(temperature=1.0, seed=1)
    await asyncio.gather(ask(made, "a"), ask(made, "b", sampled), ask(made, "c"))
    assert sorted(generator.batches) == [1, 2]


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


async def test_caller_that_goes_away_leaves_the_others_their_answers() -> None:
    made, _ = gatherer()
    leaving = asyncio.create_task(ask(made, "a"))
    staying = asyncio.create_task(ask(made, "b"))
    await asyncio.sleep(0)
    leaving.cancel()
    assert await staying == "B"
    with pytest.raises(asyncio.CancelledError):
        await leaving
