"""A LoRA checkpoint of the original as an adapter's export on a base in the hub layout."""

from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from safetensors.torch import save_file
from transformers import AutoConfig, LlavaConfig, LlavaForConditionalGeneration

from safemirage.config.model import Presets
from safemirage.models.adapter import lora_targets
from safemirage.models.conversion.layout import (
    ConversionError,
    adapter_files,
    adapter_key,
    read_json,
)
from safemirage.models.conversion.source import (
    ConversionReport,
    Source,
    check_back,
    conversion_record,
    require_all,
    require_shape,
)
from safemirage.models.conversion.tokenizer import check_image_blanks
from safemirage.models.export import BaseModel, export_folder, write_processor
from safemirage.models.families import LLAVA
from safemirage.models.loading import resolve_model
from safemirage.models.manifest import is_adapter, weights_digest
from safemirage.models.processor import load_processor

_UNKNOWN_KINDS = ("use_dora", "use_rslora", "fan_in_fan_out", "rank_pattern", "alpha_pattern")


def convert_lora(source: Path, target: Path, base: str) -> ConversionReport:
    """Converts a LoRA checkpoint; `convert` says how."""
    folder = resolve_model(base)
    base_config = _base_config(folder, base)
    files = Source(files=adapter_files(source), rename=adapter_key)
    adapter = _adapter_config(read_json(source / "adapter_config.json"), files.names(), base)
    shapes = _adapter_shapes(base_config, adapter)
    require_all(files.names(), shapes)
    named = BaseModel(path=base, weights_digest=weights_digest(folder))
    record = conversion_record(source, [files], base=named)
    report = ConversionReport(target=target, vision_tower="the base's", computed=files.computed())
    with export_folder(target, family=LLAVA, record=record) as scratch:
        tensors = {key: tensor for found in files.tensors() for key, (_, tensor) in found.items()}
        for key, tensor in tensors.items():
            require_shape(key, tensor.shape, shapes[key])
        save_file(
            {key: tensor.contiguous() for key, tensor in tensors.items()},
            scratch / "adapter_model.safetensors",
            {"format": "pt"},
        )
        adapter.save_pretrained(scratch)
        presets = _presets(read_json(source / "config.json"))
        processor = load_processor(folder, LLAVA, base_config, presets=presets)
        check_image_blanks(processor.tokenizer)
        write_processor(scratch, processor)
        check_back(scratch, [files], report)
    return report


def _base_config(folder: Path, base: str) -> LlavaConfig:
    if is_adapter(folder):
        raise ConversionError(f"--base: {base!r} is an adapter itself; name the merged model")
    config = read_json(folder / "config.json")
    if "mm_vision_tower" in config or config["model_type"] != LLAVA.name:
        raise ConversionError(
            f"--base: {base!r} is no {LLAVA.name} in the hub layout; `safemirage convert` makes one of the "
            "original's full checkpoints"
        )
    return AutoConfig.from_pretrained(folder)


def _presets(original: Mapping[str, Any]) -> Presets:
    """How the checkpoint was trained, whatever the base's processor does."""
    pad = original.get("image_aspect_ratio") == "pad"
    return Presets(template="vicuna_v1", image_preprocessing="pad" if pad else "crop")


def _adapter_config(settings: Mapping[str, Any], names: Set[str], base: str) -> LoraConfig:
    """PEFT's config for our names.

    Raises:
        ConversionError: a kind of adapter that the original does not make.
    """
    if settings.get("bias", "none") != "none":
        raise ConversionError(f"adapter_config.json: bias: {settings['bias']!r}; allowed: 'none'")
    for key in _UNKNOWN_KINDS:
        if settings.get(key):
            raise ConversionError(f"adapter_config.json: {key}: {settings[key]!r} is not converted")
    leaves = {name.split(".lora_")[0].rpartition(".")[2] for name in names if ".lora_" in name}
    has_projector = any(".multi_modal_projector." in name for name in names)
    return LoraConfig(
        r=settings["r"],
        lora_alpha=settings["lora_alpha"],
        lora_dropout=settings.get("lora_dropout", 0.0),
        bias="none",
        target_modules=lora_targets(LLAVA, sorted(leaves)),
        modules_to_save=[LLAVA.projector] if has_projector else None,
        inference_mode=True,
        base_model_name_or_path=base,
    )


def _adapter_shapes(config: LlavaConfig, adapter: LoraConfig) -> dict[str, torch.Size]:
    with torch.device("meta"):
        model = get_peft_model(LlavaForConditionalGeneration(config), adapter)
        state = get_peft_model_state_dict(model)
    return {name: value.shape for name, value in state.items()}
