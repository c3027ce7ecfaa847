"""The original LLaVA's checkpoints (haotian-liu/LLaVA, `liuhaotian/llava-v1.5-7b`): their files, names and config.

Full: `pytorch_model-*.bin` or `model-*.safetensors` with `model.layers...`, `model.mm_projector.0/2`, and the vision
tower's weights or only its name. LoRA: `adapter_model.bin` and `non_lora_trainables.bin`, which holds the projector.
"""

import json
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig

from safemirage.config.loading.load import ConfigError

_ADAPTER_NAMES = ("adapter_model.safetensors", "adapter_model.bin")
_NON_LORA_NAME = "non_lora_trainables.bin"

_PROJECTOR = {"0": "linear_1", "2": "linear_2"}
_RENAMES = (
    (r"model\.mm_projector\.([02])\.", lambda m: f"multi_modal_projector.{_PROJECTOR[m[1]]}."),
    (r"model\.vision_tower\.vision_tower\.(?=vision_model\.)", lambda m: "vision_tower."),
    (r"model\.(?=(embed_tokens|layers|norm)\.)", lambda m: "language_model.model."),
    (r"(?=lm_head\.)", lambda m: "language_model."),
)
_ADAPTER_RENAMES = (
    (
        r"model\.mm_projector\.([02])\.",
        lambda m: f"model.multi_modal_projector.{_PROJECTOR[m[1]]}.",
    ),
    (r"model\.(?=layers\.)", lambda m: "model.language_model."),
)
_COMPUTED = re.compile(r"\.(rotary_emb\.inv_freq|embeddings\.position_ids)$")
"""Tensors that older versions saved and that a model computes for itself."""
_CLIP_L_336 = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
    "projection_dim": 768,
}
"""The config of openai/clip-vit-large-patch14-336."""
_TEXT_KEYS = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "hidden_act",
    "rms_norm_eps",
    "rope_theta",
    "rope_scaling",
    "max_position_embeddings",
    "initializer_range",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
)
_VOCABULARY_MULTIPLE = 64
"""The public checkpoints' vocabulary is filled up to a multiple of it (32,064)."""


class ConversionError(ConfigError):
    """A checkpoint that cannot be converted; says which key or file is at fault."""


def is_lora(folder: Path) -> bool:
    return any((folder / name).is_file() for name in _ADAPTER_NAMES)


def adapter_files(folder: Path) -> list[Path]:
    """The adapter's file, safetensors rather than pickle, and that of the other trained weights."""
    found = [folder / name for name in _ADAPTER_NAMES if (folder / name).is_file()][:1]
    other = folder / _NON_LORA_NAME
    return [*found, other] if other.is_file() else found


def read_json(path: Path) -> dict[str, Any]:
    """Raises ConversionError where the file is missing."""
    if not path.is_file():
        raise ConversionError(f"{path.parent}: no {path.name}, so this is no LLaVA checkpoint")
    tree: dict[str, Any] = json.loads(path.read_text())
    return tree


def weight_files(folder: Path) -> list[Path]:
    """The files that hold a full checkpoint's weights, safetensors rather than pickles where both are there.

    Raises:
        ConversionError: there are none, or the index names one that is missing.
    """
    for stem, suffix in (("model", "safetensors"), ("pytorch_model", "bin")):
        index = folder / f"{stem}.{suffix}.index.json"
        if index.is_file():
            files = sorted({folder / name for name in read_json(index)["weight_map"].values()})
            if missing := [file.name for file in files if not file.is_file()]:
                raise ConversionError(f"{index}: names files that are not there: {missing}")
            return files
        if (folder / f"{stem}.{suffix}").is_file():
            return [folder / f"{stem}.{suffix}"]
    raise ConversionError(
        f"{folder}: neither model*.safetensors nor pytorch_model*.bin, with an index if there are several"
    )


def read_tensors(path: Path) -> Mapping[str, Tensor]:
    """A file's tensors on the CPU.

    Raises:
        ConversionError: a pickle that holds more than tensors.
    """
    if path.suffix == ".safetensors":
        return load_file(path)
    try:
        tensors: dict[str, Tensor] = torch.load(
            path, map_location="cpu", weights_only=True, mmap=True
        )
    except pickle.UnpicklingError as error:
        raise ConversionError(
            f"{path}: holds more than tensors, and code out of a pickle is never run"
        ) from error
    return tensors


def tensor_names(path: Path) -> list[str]:
    """The names in a file, without reading its tensors. Raises as `read_tensors`."""
    if path.suffix == ".safetensors":
        with safe_open(path, "pt") as tensors:
            return list(tensors.keys())
    return list(read_tensors(path))


def is_computed(name: str) -> bool:
    """Whether a saved tensor is no weight: the model computes it."""
    return _COMPUTED.search(name) is not None


def hub_key(name: str) -> str:
    """A weight's name in the hub layout.

    Raises:
        ConversionError: no part of a LLaVA-1.5.
    """
    return _renamed(name, _RENAMES)


def adapter_key(name: str) -> str:
    """The name, in PEFT's layout for our model, of a tensor of `adapter_model` or `non_lora_trainables`.

    Raises:
        ConversionError: neither a LoRA tensor of the language model nor the projector's.
    """
    inner = name.removeprefix("base_model.")
    inner = inner.removeprefix("model.") if inner.startswith("model.model.") else inner
    renamed = _renamed(inner.replace(".default.weight", ".weight"), _ADAPTER_RENAMES)
    return f"base_model.model.{renamed}"


def tower_key(name: str) -> str | None:
    """The hub-layout name of a tensor of an openai/clip folder; None for its text half and its projections."""
    return f"vision_tower.{name}" if name.startswith("vision_model.") else None


def tower_config(original: Mapping[str, Any], tower: Path | None) -> CLIPVisionConfig:
    """The vision tower's config: that of the folder, else the one that LLaVA-1.5 names.

    Raises:
        ConversionError: another tower, and no folder of it.
    """
    if tower is not None:
        tree = read_json(tower / "config.json")
        return CLIPVisionConfig(**tree.get("vision_config", tree))
    named = str(original.get("mm_vision_tower"))
    if not named.endswith("clip-vit-large-patch14-336"):
        raise ConversionError(
            f"mm_vision_tower: {named!r} is not LLaVA-1.5's; give its folder as --vision-tower"
        )
    return CLIPVisionConfig(**_CLIP_L_336)


def hub_config(
    original: Mapping[str, Any], vision: CLIPVisionConfig, *, image_token_id: int, num_tokens: int
) -> LlavaConfig:
    """The model's config in the hub layout; the vocabulary has room for `num_tokens`.

    Raises:
        ConversionError: an architecture that the hub layout of LLaVA-1.5 does not have.
    """
    for key, allowed in (
        ("mm_projector_type", {"mlp2x_gelu"}),
        ("image_aspect_ratio", {"pad", "square", None}),
        ("mm_patch_merge_type", {"flat", None}),
        ("mm_use_im_start_end", {False, None}),
        ("tie_word_embeddings", {False, None}),
    ):
        if original.get(key) not in allowed:
            raise ConversionError(
                f"config.json: {key}: {original.get(key)!r} is no LLaVA-1.5; it has {sorted(map(str, allowed))}"
            )
    multiple = _VOCABULARY_MULTIPLE
    text = {key: original[key] for key in _TEXT_KEYS if original.get(key) is not None}
    patches = original.get("mm_vision_select_feature", "patch") == "patch"
    return LlavaConfig(
        vision_config=vision,
        text_config=LlamaConfig(
            **text, vocab_size=-(-num_tokens // multiple) * multiple, tie_word_embeddings=False
        ),
        image_token_index=image_token_id,
        image_seq_length=(vision.image_size // vision.patch_size) ** 2 + (not patches),
        vision_feature_layer=original["mm_vision_select_layer"],
        vision_feature_select_strategy="default" if patches else "full",
        pad_token_id=original.get("pad_token_id"),
        tie_word_embeddings=False,
        dtype=original.get("torch_dtype", "float16"),
    )


def _renamed(name: str, renames: Any) -> str:
    for pattern, replacement in renames:
        renamed, count = re.subn(f"^{pattern}", replacement, name)
        if count:
            return renamed
    raise ConversionError(f"{name!r} is no part of a LLaVA-1.5 in the original's layout")
