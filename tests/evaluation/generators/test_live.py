"""The live engine: answers equal those of the in-process generator, rows enter and leave, tokens are told as they come."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from safemirage.config.generators import DecodingConfig
from safemirage.evaluation.generators import RequestRejected
from safemirage.evaluation.generators.decoding.padding import PaddedDecoder
from safemirage.evaluation.generators.live import LiveTransformers
from safemirage.evaluation.generators.speech import Delta, Speech, whole
from safemirage.evaluation.generators.transformers import TransformersGenerator
from safemirage.evaluation.types import ChatOptions, ChatRequest, ImageInput, Request, Turn
from tests.tiny import make_tiny_llava, tiny_image
from tests.tiny_families import make_tiny_member

pytestmark = [pytest.mark.anyio, pytest.mark.model]
GREEDY = DecodingConfig(max_new_tokens=12)
REQUESTS = [
    Request(question=f"what is number {number}", image=image)
    for number, image in enumerate(
        [None, *(ImageInput(tiny_image(colour)) for colour in ("red", "blue")), None] * 5
    )
]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_llava(tmp_path_factory.mktemp("live") / "model")


@pytest.fixture(scope="module")
def plain(folder: Path) -> Iterator[TransformersGenerator]:
    generator = TransformersGenerator.load(folder)
    yield generator
    generator.close()


@pytest.fixture(scope="module")
def live(folder: Path) -> Iterator[LiveTransformers]:
    """Of 4 rows, fewer than callers come."""
    engine = LiveTransformers(TransformersGenerator.load(folder, batch_size=4))
    yield engine
    engine.close()


async def streamed(
    live: LiveTransformers, request: Request, decoding: DecodingConfig
) -> list[Delta]:
    return [delta async for delta in live.stream(request, decoding)]


async def test_answers_of_many_callers_equal_those_of_one_call(
    live: LiveTransformers, plain: TransformersGenerator
) -> None:
    decodings = [GREEDY, DecodingConfig(max_new_tokens=9, temperature=0.9, top_p=0.8, seed=2**63)]
    alone = [await plain.generate(REQUESTS, decoding) for decoding in decodings]
    asked = [live.answer(request, decoding) for decoding in decodings for request in REQUESTS]
    both = [answer.generation for answer in await asyncio.gather(*asked)]
    assert both == [*alone[0], *alone[1]]


async def test_stream_joined_is_the_whole_answer_and_comes_token_by_token(
    live: LiveTransformers, plain: TransformersGenerator
) -> None:
    [alone] = await plain.generate(REQUESTS[:1], GREEDY)
    deltas = await streamed(live, REQUESTS[0], GREEDY)
    assert [delta.completion_tokens for delta in deltas] == list(range(1, len(deltas) + 1))
    assert whole(deltas).text == alone.text
    assert sum(bool(delta.text) for delta in deltas) > 3


async def test_stop_text_ends_the_answer_before_it(
    live: LiveTransformers, plain: TransformersGenerator
) -> None:
    [alone] = await plain.generate(REQUESTS[:1], GREEDY)
    stop = alone.text[3:6]
    request = ChatRequest(question=REQUESTS[0].question, options=ChatOptions(stop=(stop,)))
    answer = await live.answer(request, GREEDY)
    assert answer.text == alone.text.partition(stop)[0].rstrip()
    assert answer.finish_reason == "stop"
    assert answer.completion_tokens < alone.completion_tokens
    assert whole(await streamed(live, request, GREEDY)) == answer


async def test_chances_name_the_chosen_token_as_the_likeliest_of_a_greedy_answer(
    live: LiveTransformers,
) -> None:
    request = ChatRequest(question="what", options=ChatOptions(top_logprobs=3))
    answer = await live.answer(request, GREEDY)
    assert len(answer.chances) == answer.completion_tokens
    for chance in answer.chances:
        assert chance.top[0] == (chance.text, chance.logprob)
        assert chance.logprob <= 0
        assert [value for _, value in chance.top] == sorted(
            (value for _, value in chance.top), reverse=True
        )


async def test_presence_penalty_keeps_an_answer_from_saying_a_token_twice(
    live: LiveTransformers,
) -> None:
    options = ChatOptions(top_logprobs=0, presence_penalty=1000.0)
    answer = await live.answer(ChatRequest(question="what", options=options), GREEDY)
    # Bytes of half a character all have one text.
    said = [chance.text for chance in answer.chances if chance.text != "\ufffd"]
    assert len(said) > 3
    assert len(set(said)) == len(said)


async def test_conversation_with_several_images_is_put_to_the_model_whole(
    live: LiveTransformers,
) -> None:
    red, blue = (ImageInput(tiny_image(colour)) for colour in ("red", "blue"))
    last = ChatRequest(question="and now?", image=blue, more_images=(red,))
    earlier = (Turn(role="user", text="see", images=(red,)), Turn(role="assistant", text="a cup"))
    one = await live.answer(last, GREEDY)
    other = await live.answer(
        ChatRequest(question="and now?", image=blue, more_images=(red,), earlier=earlier), GREEDY
    )
    assert other.prompt_tokens > one.prompt_tokens
    assert last.images == (blue, red)


async def test_family_without_shared_prefixes_is_live_batch_by_batch(tmp_path: Path) -> None:
    folder = make_tiny_member(tmp_path / "model", "qwen2_vl")
    plain = TransformersGenerator.load(folder)
    live = LiveTransformers(TransformersGenerator.load(folder, batch_size=4))
    try:
        assert isinstance(live._generator.decoder, PaddedDecoder)
        sampled = DecodingConfig(max_new_tokens=6, temperature=0.9, seed=5)
        for decoding in (GREEDY, sampled):
            alone = await plain.generate(REQUESTS[:6], decoding)
            asked = (live.answer(request, decoding) for request in REQUESTS[:6])
            assert [answer.generation for answer in await asyncio.gather(*asked)] == alone
        deltas = await streamed(live, REQUESTS[1], GREEDY)
        assert whole(deltas).text == (await plain.generate(REQUESTS[1:2], GREEDY))[0].text
        assert [delta.completion_tokens for delta in deltas] == list(range(1, len(deltas) + 1))
        options = ChatOptions(top_logprobs=1, presence_penalty=1000.0)
        told = await live.answer(ChatRequest(question="what", options=options), GREEDY)
        assert len(told.chances) == told.completion_tokens
        leaving = live.stream(REQUESTS[0], DecodingConfig(max_new_tokens=200))
        await anext(leaving)
        before = live._generator.decoder.num_steps
        await leaving.aclose()  # type: ignore[attr-defined]
        await live.answer(REQUESTS[1], DecodingConfig(max_new_tokens=2))
        assert live._generator.decoder.num_steps - before < 50
    finally:
        live.close()
        plain.close()


async def test_caller_that_leaves_frees_its_row_at_once(live: LiveTransformers) -> None:
    decoder = live._generator.decoder
    long = DecodingConfig(max_new_tokens=300)
    callers = [asyncio.create_task(live.answer(REQUESTS[n], long)) for n in range(8)]
    streams = live.stream(REQUESTS[0], long)
    await anext(streams)
    before = decoder.num_steps
    for caller in callers:
        caller.cancel()
    await streams.aclose()  # type: ignore[attr-defined]
    await asyncio.gather(*callers, return_exceptions=True)
    await live.answer(REQUESTS[1], GREEDY)
    assert decoder.num_steps - before < 60, "nine answers of 300 tokens were given up"


async def test_request_that_does_not_fit_costs_only_itself(live: LiveTransformers) -> None:
    wrong = Request(question="x" * 3000)
    results = await asyncio.gather(
        live.answer(wrong, GREEDY), live.answer(REQUESTS[0], GREEDY), return_exceptions=True
    )
    assert isinstance(results[0], RequestRejected)
    assert not isinstance(results[1], BaseException)


def test_speech_holds_back_what_may_still_become_a_stop_text() -> None:
    speech = Speech(
        lambda ids: "".join(map(chr, ids)).strip(), prompt_tokens=1, limit=99, stop=["END"]
    )
    told = []
    for letter in "say E or EN, then EN":
        assert not speech.hear(ord(letter))
        told.append(speech.tell().text)
    assert "".join(told) == "say E or EN, then"
    assert speech.hear(ord("D"))
    last = speech.tell()
    assert ("".join(told) + last.text, last.finish_reason) == ("say E or EN, then", "stop")
