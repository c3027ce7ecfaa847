import pytest

from safemirage.models.families import LLAVA, UnknownFamilyError, family_of
from tests.tiny import build_tiny_llava, tiny_config


def test_family_of_a_llava_config_is_llava() -> None:
    assert family_of(tiny_config()) is LLAVA


def test_family_of_an_unknown_model_lists_the_known_ones() -> None:
    with pytest.raises(
        UnknownFamilyError,
        match=r"'clip_vision_model' is no known family; known: .*llava, llava_next",
    ):
        family_of(tiny_config().vision_config)


def test_hub_names_of_a_llava_are_the_public_checkpoints() -> None:
    names = {LLAVA.hub_name(name) for name in build_tiny_llava().model.state_dict()}
    assert {
        "language_model.lm_head.weight",
        "language_model.model.embed_tokens.weight",
        "language_model.model.layers.1.mlp.down_proj.weight",
        "multi_modal_projector.linear_1.weight",
        "vision_tower.vision_model.embeddings.class_embedding",
        "vision_tower.vision_model.encoder.layers.0.self_attn.q_proj.weight",
    } <= names


def test_hub_name_of_a_stray_parameter_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"'reward_head\.weight' belongs to no part of a llava model"
    ):
        LLAVA.hub_name("reward_head.weight")
