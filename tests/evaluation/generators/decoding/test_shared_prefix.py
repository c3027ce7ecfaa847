"""The decoder that shares prefixes gives the tokens of transformers' own `generate`, one prompt at a time."""

import asyncio
import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import GenerationConfig

from safemirage.config.generators import DecodingConfig
from safemirage.evaluation.generators.decoding.padding import PaddedDecoder
from safemirage.evaluation.generators.decoding.shared_prefix import (
    SharedPrefixDecoder,
    common_prefix,
)
from safemirage.evaluation.generators.transformers import TransformersGenerator
from safemirage.evaluation.types import Generation, ImageInput, Request
from safemirage.models.families import LLAVA
from safemirage.models.images import read_image
from safemirage.models.loading import LoadedModel
from safemirage.models.precision import multiplies
from safemirage.models.prompts import Prompter
from tests.tiny import IMAGE_TOKENS, build_tiny_llava, tiny_image

COLOURS = ("red", "blue", "green", "white", "black")
WORDS = ("what", "share", "tell", "me", "all", "you", "can", "see", "in", "here", "now", "please")


def requests(count: int, seed: int = 0) -> list[Request]:
    """Questions of many lengths; some share an image, some have none, some a system message or a prefill."""
    rng = random.Random(seed)
    made = []
    for _ in range(count):
        colour = rng.choice([*COLOURS, None])
        made.append(
            Request(
                question=" ".join(rng.choices(WORDS, k=rng.randint(1, 9))),
                image=None if colour is None else ImageInput(tiny_image(colour)),
                system=rng.choice([None, None, "Be brief."]),
                prefill=rng.choice(["", "", "Well,"]),
            )
        )
    return made


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    tiny = build_tiny_llava()
    return LoadedModel(
        model=tiny.model,
        processor=tiny.processor,
        family=LLAVA,
        weights_digest="w",
        processor_digest="p",
        attention="sdpa",
    )


def answer(
    generator: TransformersGenerator, asked: Sequence[Request], tokens: int = 16
) -> list[Generation]:
    return asyncio.run(generator.generate(asked, DecodingConfig(max_new_tokens=tokens)))


def by_generate(loaded: LoadedModel, request: Request, tokens: int = 16) -> str:
    """transformers alone: whole prompt, pixels and all, at batch 1."""
    prompter = Prompter(loaded.processor)
    text = prompter.prompt(
        request.question,
        has_image=request.image is not None,
        system=request.system,
        prefill=request.prefill,
    )
    image = None if request.image is None else read_image(request.image.data)
    ids = torch.tensor([prompter.prompt_ids(text, image_size=image and image.size)])
    output = loaded.model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        **({} if image is None else prompter.pixels(image)),
        generation_config=GenerationConfig(
            max_new_tokens=tokens, do_sample=False, eos_token_id=2, pad_token_id=3
        ),
    )
    return prompter.decode(output[0, ids.shape[1] :].tolist())


@pytest.mark.parametrize("rows", [1, 3, 16, 64])
def test_answers_are_those_of_generate_at_batch_one(loaded: LoadedModel, rows: int) -> None:
    asked = requests(40)
    expected = [by_generate(loaded, request) for request in asked]
    found = answer(TransformersGenerator(loaded, batch_size=rows), asked)
    assert [one.text for one in found] == expected
    assert len(set(expected)) >= 20


def test_answers_of_different_lengths_end_by_themselves_and_make_room(loaded: LoadedModel) -> None:
    class Cut(TransformersGenerator):
        def _limit(self, request: Request, decoding: DecodingConfig) -> int:
            return 1 + len(request.question) % 13

    asked = requests(30, seed=1)
    generator = Cut(loaded, batch_size=4)
    found = answer(generator, asked)
    for request, one in zip(asked, found, strict=True):
        limit = 1 + len(request.question) % 13
        assert one.completion_tokens <= limit
        assert one.text == by_generate(loaded, request, limit)
    # Four rows at a time, none of which waits for the longest.
    assert generator.decoder.num_steps < sum(one.completion_tokens for one in found) / 2


def test_prefix_of_an_image_is_computed_once(loaded: LoadedModel) -> None:
    generator = TransformersGenerator(loaded, batch_size=2)
    image = ImageInput(tiny_image("red"))
    asked = [Request(question=word, image=image) for word in WORDS[:6]]
    found = answer(generator, asked)
    shared = len("USER: ") + 1 + IMAGE_TOKENS + len("\n")
    assert generator.num_encoded_images == 1
    whole = sum(one.prompt_tokens for one in found)
    assert generator.decoder.num_prefill_tokens == whole - 5 * shared


def test_second_call_does_not_see_the_first_one_s_rows(loaded: LoadedModel) -> None:
    generator = TransformersGenerator(loaded, batch_size=8)
    answer(generator, requests(20, seed=2), tokens=40)
    asked = requests(12, seed=3)
    assert [one.text for one in answer(generator, asked)] == [
        by_generate(loaded, request) for request in asked
    ]


def test_family_without_the_capability_is_answered_by_generate_in_padded_batches(
    loaded: LoadedModel,
) -> None:
    plain = replace(loaded, family=replace(LLAVA, supports_shared_prefix=False))
    padded, shared = TransformersGenerator(plain), TransformersGenerator(loaded)
    assert isinstance(padded.decoder, PaddedDecoder)
    assert isinstance(shared.decoder, SharedPrefixDecoder)
    asked = requests(20)
    assert answer(padded, asked) == answer(shared, asked)
    assert padded.key["decoder"] != shared.key["decoder"]


def test_half_precision_is_multiplied_in_float32_where_the_cpu_has_no_units_for_it() -> None:
    tiny = build_tiny_llava()
    model = tiny.model.to(torch.bfloat16)
    weight = model.lm_head.weight.clone()
    half = LoadedModel(
        model=model,
        processor=tiny.processor,
        family=LLAVA,
        weights_digest="w",
        processor_digest="p",
        attention="sdpa",
    )
    key = TransformersGenerator(half).key
    native = multiplies(torch.bfloat16, torch.device("cpu"))
    assert key["dtype"] == "bfloat16"
    assert key["products"] == ("bfloat16" if native else "float32")
    assert torch.equal(model.lm_head.weight.float(), weight.float())


@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=6), min_size=1, max_size=5))
def test_common_prefix_is_the_longest_that_leaves_each_text_a_token(
    texts: list[list[int]],
) -> None:
    length = common_prefix([tuple(text) for text in texts])
    assert all(text[:length] == texts[0][:length] and len(text) > length for text in texts)
    longer = length + 1
    assert any(text[:longer] != texts[0][:longer] or len(text) <= longer for text in texts)
