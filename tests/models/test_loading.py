import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from safemirage.config.loading.load import ConfigError
from safemirage.config.model import LoraConfig, ModelConfig
from safemirage.models.families import LLAVA
from safemirage.models.loading import (
    choose_attention,
    load_for_inference,
    load_for_training,
)
from safemirage.models.processor import load_processor
from tests.tiny import make_tiny_llava, tiny_config
from tests.tiny_families import TINY_MEMBERS, export_member, make_tiny_member


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_llava(tmp_path_factory.mktemp("base") / "tiny")


def trained_names(base: Path, **options: object) -> set[str]:
    loaded = load_for_training(ModelConfig(path=str(base), **options))  # type: ignore[arg-type]
    return {name for name, weight in loaded.model.named_parameters() if weight.requires_grad}


def test_training_in_full_changes_all_but_the_vision_tower(base: Path) -> None:
    names = trained_names(base)
    assert "lm_head.weight" in names
    assert "model.language_model.embed_tokens.weight" in names
    assert "model.multi_modal_projector.linear_1.weight" in names
    assert not any("vision_tower" in name for name in names)


def test_training_by_patterns_changes_what_they_fit(base: Path) -> None:
    names = trained_names(
        base, trainable=(r"{language}\.layers\.(0|1)\.mlp\.down_proj", "{projector}")
    )
    assert names == {
        "model.language_model.layers.0.mlp.down_proj.weight",
        "model.language_model.layers.1.mlp.down_proj.weight",
        "model.multi_modal_projector.linear_1.weight",
        "model.multi_modal_projector.linear_1.bias",
        "model.multi_modal_projector.linear_2.weight",
        "model.multi_modal_projector.linear_2.bias",
    }


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        (r"layers\.7\.", r"model\.trainable: .*fits no parameter"),
        ("layers.(0", r"model\.trainable: 'layers\.\(0' is no regular expression"),
    ],
)
def test_training_by_a_pattern_that_cannot_fit_is_refused(
    base: Path, pattern: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        trained_names(base, trainable=(pattern,))


def test_training_by_lora_adapts_every_linear_layer_and_the_whole_projector(base: Path) -> None:
    names = trained_names(base, lora=LoraConfig(rank=2))
    linear = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    for leaf in linear:
        assert sum(f".{leaf}.lora_A." in name for name in names) == 2, leaf
    projector = {name for name in names if "lora_" not in name}
    assert len(projector) == 4
    assert all("multi_modal_projector.modules_to_save" in name for name in projector)
    assert not any("vision_tower" in name or "lm_head" in name for name in names)


def test_training_by_lora_without_the_projector_leaves_it_frozen(base: Path) -> None:
    names = trained_names(base, lora=LoraConfig(rank=2, train_projector=False))
    assert all("lora_" in name for name in names)


def test_training_by_lora_with_patterns_is_refused(base: Path) -> None:
    with pytest.raises(ConfigError, match=r"model\.trainable.*model\.lora"):
        trained_names(base, lora=LoraConfig(rank=2), trainable=("x",))


def test_training_with_gradient_checkpointing_gives_the_same_gradients(base: Path) -> None:
    gradients = []
    for checkpointing in (False, True):
        config = ModelConfig(
            path=str(base),
            lora=LoraConfig(rank=2, dropout=0.0),
            gradient_checkpointing=checkpointing,
        )
        torch.manual_seed(0)
        loaded = load_for_training(config)
        assert loaded.model.training
        ids = torch.arange(10, 30).unsqueeze(0)
        loaded.model(input_ids=ids, labels=ids).loss.backward()
        gradients.append(
            {n: p.grad for n, p in loaded.model.named_parameters() if p.grad is not None}
        )
    plain, checkpointed = gradients
    assert plain.keys() == checkpointed.keys()
    assert any(gradient.abs().sum() > 0 for gradient in plain.values())
    for name, gradient in plain.items():
        torch.testing.assert_close(checkpointed[name], gradient)


def test_loading_the_same_weights_for_training_and_inference_gives_one_digest(base: Path) -> None:
    training = load_for_training(ModelConfig(path=str(base)))
    inference = load_for_inference(base)
    assert training.weights_digest == inference.weights_digest
    assert not any(weight.requires_grad for weight in inference.model.parameters())


def test_loading_nothing_names_the_key_and_the_path(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"model\.path: '.*nowhere' is no folder"):
        load_for_inference(tmp_path / "nowhere")


def test_loading_pickled_weights_is_refused(base: Path, tmp_path: Path) -> None:
    folder = make_tiny_llava(tmp_path / "pickled")
    model = load_for_inference(folder).model
    (folder / "model.safetensors").unlink()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(OSError, match="safetensors"):
        load_for_inference(folder)


def test_processor_without_a_chat_template_gets_its_family_s(tmp_path: Path) -> None:
    folder = make_tiny_llava(tmp_path / "bare")
    (folder / "chat_template.jinja").unlink()
    processor = load_processor(folder, LLAVA, tiny_config())
    assert processor.chat_template == LLAVA.chat_template


def test_processor_prepares_images_by_pil(base: Path) -> None:
    processor = load_processor(base, LLAVA, tiny_config())
    assert type(processor.image_processor).__name__ == "CLIPImageProcessorPil"


def test_choose_attention_auto_in_float32_on_the_cpu_is_sdpa() -> None:
    assert choose_attention("auto", "float32", on_cuda=False) == "sdpa"
    assert choose_attention("eager", "float32", on_cuda=False) == "eager"


def _changed(folder: Path, changes: dict[str, object]) -> Path:
    """The folder with other values in its processor's file; those that are None are taken out."""
    file = folder / "processor_config.json"
    tree = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({name: value for name, value in tree.items() if value is not None}))
    return folder


@pytest.mark.parametrize("family", ["llava", "llava_next"])
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_additional_image_tokens": None}, "num_additional_image_tokens is 0 .* adds is 1"),
        ({"patch_size": 16}, r"patch_size is 16 .*vision_config\.patch_size is 8 in config\.json"),
        ({"vision_feature_select_strategy": "full"}, "'full' .*'default' in config"),
        ({"image_token": "</s>"}, "image_token_id is 2 .* image_token_id is 4"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_processor_that_does_not_fit_its_model_is_refused_at_load(
    family: str, changes: dict[str, object], said: str, tmp_path: Path
) -> None:
    folder = _changed(make_tiny_member(tmp_path / "model", family), changes)
    with pytest.raises(ConfigError, match=f"processor and model do not fit: .*{said}"):
        load_for_inference(folder)
    with pytest.raises(ConfigError, match=said):
        load_for_training(ModelConfig(path=str(folder)))


def test_processor_of_another_tower_s_size_is_refused_at_load(tmp_path: Path) -> None:
    folder = make_tiny_member(tmp_path / "model", "llava")
    image_processor = json.loads((folder / "processor_config.json").read_text())["image_processor"]
    size = {"size": {"shortest_edge": 48}, "crop_size": {"height": 48, "width": 48}}
    _changed(folder, {"image_processor": image_processor | size})
    with pytest.raises(ConfigError, match=r"\(48, 48\) .*image_size is \(32, 32\)"):
        load_for_inference(folder)


def test_processor_of_other_patches_than_qwen_s_is_refused_at_load(tmp_path: Path) -> None:
    folder = make_tiny_member(tmp_path / "model", "qwen2_vl")
    image_processor = json.loads((folder / "processor_config.json").read_text())["image_processor"]
    _changed(folder, {"image_processor": image_processor | {"merge_size": 1}})
    with pytest.raises(ConfigError, match=r"merge_size is 1 .*spatial_merge_size is 2"):
        load_for_inference(folder)


def test_processor_from_before_it_held_patches_takes_them_from_the_model(tmp_path: Path) -> None:
    names = ("patch_size", "vision_feature_select_strategy", "num_additional_image_tokens")
    folder = _changed(make_tiny_member(tmp_path / "model", "llava"), dict.fromkeys(names))
    processor = load_for_inference(folder).processor
    assert [getattr(processor, name) for name in names] == [8, "default", 1]


@pytest.mark.parametrize(
    ("family", "layout"),
    [("llava", "as saved"), *((name, "as published") for name in TINY_MEMBERS)],
)
def test_loading_in_parts_gives_the_model_that_is_loaded_whole(
    family: str, layout: str, tmp_path: Path
) -> None:
    """The parameters are handed over one by one; nothing else of a parameter was in memory before."""
    if layout == "as saved":
        make_tiny_member(tmp_path / "model", family)
    else:
        export_member(tmp_path / "model", TINY_MEMBERS[family]())
    config = ModelConfig(path=str(tmp_path / "model"))
    taken: list[int] = []

    def take(parameter: nn.Parameter, read: Callable[[], Tensor]) -> None:
        assert parameter.is_meta
        torch.utils.swap_tensors(parameter, nn.Parameter(read()))
        taken.append(parameter.numel())

    whole, parts = load_for_training(config), load_for_training(config, take=take)
    assert parts.model.state_dict().keys() == whole.model.state_dict().keys()
    for (name, one), (_, other) in zip(
        whole.model.named_parameters(), parts.model.named_parameters(), strict=True
    ):
        assert torch.equal(one, other), name
        assert one.requires_grad == other.requires_grad
    for one, other in zip(whole.model.buffers(), parts.model.buffers(), strict=True):
        assert torch.equal(one, other)
    assert sum(taken) == sum(p.numel() for p in whole.model.parameters())
    assert parts.model.config.to_dict() == whole.model.config.to_dict()
    assert parts.model.generation_config.to_dict() == whole.model.generation_config.to_dict()
