"""The miniature's processor and model: what they read, what they can say, what the tower sees."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import LlavaForConditionalGeneration

from safemirage.config.world import TowerConfig, WorldConfig
from safemirage.miniature.model import build_model, build_processor
from safemirage.miniature.pictures import OUTLINES, draw
from safemirage.miniature.world import World
from tests.miniature.conftest import answer_of, question_of, read

QUICK = WorldConfig(tower=TowerConfig(pictures=32, steps=2, batch_size=8))


def test_tokenizer_knows_every_word_of_every_set(small_world: World) -> None:
    tokenizer = build_processor(small_world.config).tokenizer
    for path in (small_world.folder / "train").iterdir():
        for record in read(path):
            for text in (question_of(record), answer_of(record)):
                assert tokenizer.unk_token_id not in tokenizer(text).input_ids, text


def test_answer_survives_encoding_and_decoding(small_world: World) -> None:
    tokenizer = build_processor(small_world.config).tokenizer
    for record in read(small_world.training_file("mixed_sft")):
        text = answer_of(record)
        assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_prompt_is_a_prefix_of_the_whole_conversation() -> None:
    processor = build_processor(QUICK)
    user = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what is it"}]}
    reply = {"role": "assistant", "content": [{"type": "text", "text": "a cup"}]}
    prompt = processor.apply_chat_template([user], add_generation_prompt=True)
    whole = processor.apply_chat_template([user, reply])
    assert prompt == "USER: <image>\nwhat is it ASSISTANT:"
    assert whole == f"{prompt} a cup</s>"


def test_model_is_small_and_the_same_from_the_same_seed() -> None:
    first, second = (build_model(QUICK, build_processor(QUICK)) for _ in range(2))
    assert 0.5e6 < sum(p.numel() for p in first.parameters()) < 1.5e6
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name


def test_model_answers_a_picture_through_its_processor() -> None:
    processor = build_processor(QUICK)
    model: LlavaForConditionalGeneration = build_model(QUICK, processor)
    image = draw(QUICK.safe_kinds[0], "red", 32, random.Random(0))
    inputs = processor(images=image, text="USER: <image>\nwhat ASSISTANT:", return_tensors="pt")
    num_patches = (QUICK.tower.image_size // QUICK.tower.patch_size) ** 2
    assert (inputs["input_ids"] == model.config.image_token_index).sum() == num_patches
    answer = model.generate(**inputs, max_new_tokens=3, do_sample=False)
    assert answer.shape[1] > inputs["input_ids"].shape[1]


def test_every_kind_has_an_outline_within_the_picture() -> None:
    for kind in (*QUICK.safe_kinds, *QUICK.unsafe_kinds):
        assert np.abs(np.concatenate([np.array(p) for p in OUTLINES[kind]])).max() <= 1.0


@pytest.mark.parametrize("kind", [*QUICK.safe_kinds, *QUICK.unsafe_kinds])
def test_picture_shows_its_colour_and_is_jittered(kind: str) -> None:
    rng = random.Random(0)
    first, second = (np.asarray(draw(kind, "red", 32, rng), dtype=float) for _ in range(2))
    reddish = (first[..., 0] > 150) & (first[..., 1:].max(axis=-1) < 120)
    assert reddish.sum() > 30
    assert not np.array_equal(first, second)


def test_model_of_another_seed_differs() -> None:
    other = replace(QUICK, seed=1)
    first, second = (build_model(c, build_processor(c)).state_dict() for c in (QUICK, other))
    assert any(not torch.equal(first[name], second[name]) for name in first)
