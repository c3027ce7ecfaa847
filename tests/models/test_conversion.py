"""Checkpoints in the original LLaVA's layout become exports that compute what the original computes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForImageTextToText

from safemirage.models.conversion import ConversionError, convert
from safemirage.models.conversion.layout import hub_config, tower_config
from safemirage.models.images import read_image
from safemirage.models.loading import load_for_inference
from safemirage.models.manifest import verify_export
from safemirage.models.prompts import Prompter
from tests.models.original_checkpoint import (
    VOCABULARY,
    OriginalLlava,
    merged_by_hand,
    original_config,
    save_full,
    save_lora,
)
from tests.tiny import tiny_image

QUESTION = "what is it?"


def assert_same_logits(model: OriginalLlava, export: Path, *, rtol: float, atol: float) -> None:
    loaded = load_for_inference(export)
    prompter = Prompter(loaded.processor)
    text = prompter.prompt(QUESTION, has_image=True)
    pixels = prompter.pixels(read_image(tiny_image("red")))
    ids = prompter.prompt_ids(text, image_size=(40, 36))
    with torch.no_grad():
        logits = loaded.model(input_ids=torch.tensor([ids]), **pixels).logits[0]
    before, after = (piece for piece in _around(ids, prompter.image_token_id))
    expected = model.answer_logits(before, pixels["pixel_values"], after)
    assert logits.shape[0] == expected.shape[0]
    torch.testing.assert_close(logits[:, :VOCABULARY], expected, rtol=rtol, atol=atol)
    assert bool((logits[:, VOCABULARY:].amax(1) < expected.amax(1)).all())


def _around(ids: list[int], image_token_id: int) -> tuple[list[int], list[int]]:
    first = ids.index(image_token_id)
    count = ids.count(image_token_id)
    return ids[:first], ids[first + count :]


@pytest.mark.parametrize("tower", [True, False])
def test_full_checkpoint_converted_gives_the_original_s_logits(tmp_path: Path, tower: bool) -> None:
    model = OriginalLlava()
    source = save_full(tmp_path / "llava", model.weights(tower=tower))
    folder = model.save_tower(tmp_path / "clip")
    report = convert(source, tmp_path / "hub", vision_tower=folder)
    assert report.vision_tower == ("in the checkpoint" if tower else str(folder))
    assert report.filled_rows == {
        "language_model.model.embed_tokens.weight": 20,
        "language_model.lm_head.weight": 20,
    }
    weights = model.weights(tower=True)
    assert report.compared == len(weights)
    assert_same_logits(model, tmp_path / "hub", rtol=0, atol=0)


def test_full_checkpoint_converted_is_an_export_with_the_original_s_inputs(tmp_path: Path) -> None:
    model = OriginalLlava()
    source = save_full(tmp_path / "llava", model.weights(tower=True))
    convert(source, tmp_path / "hub", vision_tower=model.save_tower(tmp_path / "clip"))
    manifest = verify_export(tmp_path / "hub")
    assert (manifest.method, manifest.family, manifest.base) == ("converted", "llava", None)
    assert set(manifest.config["files"]) == {
        f"pytorch_model-{number:05}-of-00002.bin" for number in (1, 2)
    }
    prompter = Prompter(load_for_inference(tmp_path / "hub").processor)
    assert prompter.prompt(QUESTION, has_image=True) == (
        "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, "
        "detailed, and polite answers to the user's questions. USER: <image>\nwhat is it? ASSISTANT:"
    )
    wide = read_image(tiny_image("red", size=(80, 20)))
    top = prompter.pixels(wide)["pixel_values"][0, :, 0, :]
    # Padded: the first row is CLIP's mean colour, in whole numbers 122, 116, 104, which is nearly zero.
    assert top.abs().max() < 0.02
    AutoModelForImageTextToText.from_pretrained(tmp_path / "hub")


@pytest.mark.parametrize("pickled", [True, False])
def test_lora_checkpoint_converted_gives_the_merged_original_s_logits(
    tmp_path: Path, pickled: bool
) -> None:
    model = OriginalLlava()
    base = tmp_path / "base"
    convert(
        save_full(tmp_path / "llava", model.weights(tower=True)),
        base,
        vision_tower=model.save_tower(tmp_path / "clip"),
    )
    source = save_lora(tmp_path / "lora", pickled=pickled)
    report = convert(source, tmp_path / "adapter", base=str(base))
    assert report.compared == 2 * 14 + 4
    by_hand = merged_by_hand(save_lora(tmp_path / "again"))
    assert_same_logits(by_hand, tmp_path / "adapter", rtol=1e-4, atol=1e-3)
    assert verify_export(tmp_path / "adapter").base is not None


def drop(name: str) -> Callable[[dict[str, Tensor]], None]:
    def damage(weights: dict[str, Tensor]) -> None:
        del weights[name]

    return damage


def add(name: str) -> Callable[[dict[str, Tensor]], None]:
    return lambda weights: weights.update({name: torch.zeros(2)})


def bend(weights: dict[str, Tensor]) -> None:
    weights["model.norm.weight"] = torch.zeros(65)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            drop("model.layers.1.mlp.up_proj.weight"),
            r"1 key\(s\) missing: \['language_model\.model\.layers\.1\.mlp\.up_proj\.weight'\]; 0 key",
        ),
        (
            add("model.layers.2.mlp.up_proj.weight"),
            r"0 key\(s\) missing: \[\]; 1 key\(s\) without a place: "
            r"\['language_model\.model\.layers\.2\.mlp\.up_proj\.weight'\]",
        ),
        (add("model.reward_head.weight"), r"'model\.reward_head\.weight' is no part of a LLaVA"),
        (bend, r"language_model\.model\.norm\.weight: shape \(65,\), but the config says \(64,\)"),
    ],
)
def test_full_checkpoint_that_does_not_fit_is_refused_by_the_key(
    tmp_path: Path, damage: Callable[[dict[str, Tensor]], None], message: str
) -> None:
    model = OriginalLlava()
    weights = model.weights(tower=True)
    damage(weights)
    source = save_full(tmp_path / "llava", weights)
    with pytest.raises(ConversionError, match=message):
        convert(source, tmp_path / "hub", vision_tower=model.save_tower(tmp_path / "clip"))
    assert not (tmp_path / "hub").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip", "llava"]


def test_full_checkpoint_without_its_tower_says_where_to_give_one(tmp_path: Path) -> None:
    model = OriginalLlava()
    source = save_full(tmp_path / "llava", model.weights(tower=False))
    with pytest.raises(ConversionError, match=r"no vision tower .*--vision-tower"):
        convert(source, tmp_path / "hub")


def test_full_checkpoint_of_older_versions_leaves_out_what_a_model_computes(tmp_path: Path) -> None:
    model = OriginalLlava()
    weights = model.weights(tower=True)
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    weights[name] = torch.ones(16)
    source = save_full(tmp_path / "llava", weights)
    folder = model.save_tower(tmp_path / "clip")
    assert convert(source, tmp_path / "hub", vision_tower=folder).computed == [name]


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("mm_projector_type", "linear", r"mm_projector_type: 'linear'"),
        ("image_aspect_ratio", "anyres", r"image_aspect_ratio: 'anyres'"),
        ("mm_vision_tower", "other/tower", r"mm_vision_tower: 'other/tower'.*--vision-tower"),
    ],
)
def test_full_checkpoint_of_another_architecture_is_refused(
    tmp_path: Path, key: str, value: str, message: str
) -> None:
    source = save_full(tmp_path / "llava", OriginalLlava().weights(tower=True))
    (source / "config.json").write_text(json.dumps(original_config() | {key: value}))
    with pytest.raises(ConversionError, match=message):
        convert(source, tmp_path / "hub")


class _Payload:
    def __reduce__(self) -> Any:
        return (print, ("this must not run",))


def test_pickled_code_in_a_checkpoint_is_not_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = OriginalLlava()
    source = save_full(tmp_path / "llava", model.weights(tower=True), num_files=1)
    torch.save({"model.norm.weight": _Payload()}, source / "pytorch_model-00001-of-00001.bin")
    with pytest.raises(ConversionError, match=r"bin: holds more than tensors"):
        convert(source, tmp_path / "hub", vision_tower=model.save_tower(tmp_path / "clip"))
    assert "must not run" not in capsys.readouterr().out


def test_lora_checkpoint_with_an_unknown_key_is_refused(tmp_path: Path) -> None:
    model = OriginalLlava()
    base = tmp_path / "base"
    source = save_full(tmp_path / "llava", model.weights(tower=True))
    convert(source, base, vision_tower=model.save_tower(tmp_path / "clip"))
    lora = save_lora(tmp_path / "lora")
    trained = torch.load(lora / "non_lora_trainables.bin", weights_only=True)
    torch.save(
        trained | {"base_model.model.model.embed_tokens.weight": torch.ones(1)},
        lora / "non_lora_trainables.bin",
    )
    with pytest.raises(ConversionError, match=r"embed_tokens.weight' is no part of a LLaVA"):
        convert(lora, tmp_path / "adapter", base=str(base))


@pytest.mark.parametrize(
    ("base", "message"), [(None, "--base"), ("llava", "'.*llava' is no llava in the hub layout")]
)
def test_lora_checkpoint_without_a_base_in_the_hub_layout_is_refused(
    tmp_path: Path, base: str | None, message: str
) -> None:
    lora = save_lora(tmp_path / "lora")
    save_full(tmp_path / "llava", OriginalLlava().weights(tower=True))
    with pytest.raises(ConversionError, match=message):
        convert(lora, tmp_path / "adapter", base=str(tmp_path / base) if base else None)


def test_config_of_the_public_7b_has_the_hub_s_numbers() -> None:
    original = original_config() | {
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "vocab_size": 32000,
        "torch_dtype": "float16",
    }
    config = hub_config(
        original, tower_config(original, None), image_token_id=32000, num_tokens=32001
    )
    assert (config.text_config.vocab_size, config.image_token_index) == (32064, 32000)
    assert (config.image_seq_length, config.vision_feature_layer) == (576, -2)
    assert config.vision_config.hidden_act == "quick_gelu"
    assert config.text_config.num_key_value_heads == 32
