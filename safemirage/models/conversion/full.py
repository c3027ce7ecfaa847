"""A full checkpoint of the original as a model in the hub layout, with config, tokenizer and processor."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import (
    CLIPImageProcessorPil,
    GenerationConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)

from safemirage.models.conversion.layout import (
    ConversionError,
    hub_config,
    hub_key,
    read_json,
    tower_config,
    tower_key,
    weight_files,
)
from safemirage.models.conversion.source import (
    ConversionReport,
    Source,
    check_back,
    conversion_record,
    require_all,
    require_shape,
)
from safemirage.models.conversion.tokenizer import (
    IMAGE_TOKEN,
    check_tokenizer,
    convert_tokenizer,
)
from safemirage.models.export import export_folder, write_index, write_processor
from safemirage.models.families import LLAVA
from safemirage.models.processor import square_images

_PREPROCESSOR = "preprocessor_config.json"
_STEPS = ("do_resize", "do_center_crop", "do_rescale", "do_normalize")
_VOCABULARY_KEYS = (
    "language_model.model.embed_tokens.weight",
    "language_model.lm_head.weight",
)


def convert_full(source: Path, target: Path, vision_tower: Path | None) -> ConversionReport:
    """Converts a full checkpoint; `convert` says how."""
    original = read_json(source / "config.json")
    tokenizer = convert_tokenizer(source)
    config = hub_config(
        original,
        tower_config(original, vision_tower),
        image_token_id=tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
        num_tokens=max(len(tokenizer), original["vocab_size"]),
    )
    sources = [Source(files=weight_files(source), rename=hub_key)]
    origin = "in the checkpoint"
    if not any(name.startswith("vision_tower.") for name in sources[0].names()):
        if vision_tower is not None:
            sources.append(Source(files=weight_files(vision_tower), rename=tower_key))
        origin = str(vision_tower)
    report = ConversionReport(
        target=target,
        vision_tower=origin,
        computed=[name for one in sources for name in one.computed()],
    )
    record = conversion_record(source, sources, base=None)
    with export_folder(target, family=LLAVA, record=record) as scratch:
        _write_weights(scratch, sources, _hub_shapes(config), report)
        _write_config(scratch, config, tokenizer, original)
        pad = original.get("image_aspect_ratio") == "pad"
        write_processor(
            scratch, _processor(tokenizer, config, _image_processor(config, vision_tower, pad=pad))
        )
        check_back(scratch, sources, report)
        report.texts = check_tokenizer(scratch, source)
    return report


def _write_config(
    scratch: Path, config: LlavaConfig, tokenizer: Any, original: Mapping[str, Any]
) -> None:
    """Raises ConversionError where the model's start or end token is another than its tokenizer's."""
    for key in ("bos_token_id", "eos_token_id"):
        own, named = getattr(tokenizer, key), original.get(key)
        if named not in (None, own):
            raise ConversionError(f"config.json: {key}: {named!r}, but the tokenizer's is {own}")
    config.architectures = [LlavaForConditionalGeneration.__name__]
    config.save_pretrained(scratch)
    GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    ).save_pretrained(scratch)


def _image_processor(config: LlavaConfig, vision_tower: Path | None, *, pad: bool) -> Any:
    """The tower's own, which is the original's; CLIP's where only the tower's name is known.

    Raises:
        ConversionError: the tower's leaves out a step, or makes images of another size than the tower takes.
    """
    side = config.vision_config.image_size
    square = {"height": side, "width": side}
    images = CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size=square)
    if vision_tower is not None and (vision_tower / _PREPROCESSOR).is_file():
        images = CLIPImageProcessorPil.from_pretrained(vision_tower)
    left_out = [step for step in _STEPS if not getattr(images, step)]
    if left_out or dict(images.crop_size) != square:
        raise ConversionError(
            f"{vision_tower}/{_PREPROCESSOR}: leaves out {left_out} or crops to {dict(images.crop_size)}; "
            f"LLaVA-1.5's does each of {list(_STEPS)} and crops to {square}"
        )
    return square_images(images, pad=pad)


def _processor(tokenizer: Any, config: LlavaConfig, images: Any) -> LlavaProcessor:
    return LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=config.vision_config.patch_size,
        vision_feature_select_strategy=config.vision_feature_select_strategy,
        num_additional_image_tokens=1,  # CLIP's class token
        chat_template=LLAVA.chat_template,
    )


def _hub_shapes(config: LlavaConfig) -> dict[str, torch.Size]:
    with torch.device("meta"):
        model = LlavaForConditionalGeneration(config)
    return {LLAVA.hub_name(name): value.shape for name, value in model.state_dict().items()}


def _write_weights(
    scratch: Path,
    sources: Sequence[Source],
    shapes: Mapping[str, torch.Size],
    report: ConversionReport,
) -> None:
    """One safetensors file for each file of the source."""
    require_all({name for source in sources for name in source.names()}, shapes)
    num_files = sum(len(source.files) for source in sources)
    weight_map: dict[str, str] = {}
    files = (tensors for source in sources for tensors in source.tensors())
    for number, tensors in enumerate(files, start=1):
        written = {
            key: _filled(key, tensor, shapes[key], report) for key, (_, tensor) in tensors.items()
        }
        if twice := sorted(written.keys() & weight_map.keys()):
            raise ConversionError(f"{twice[0]!r} comes from two files")
        name = f"model-{number:05}-of-{num_files:05}.safetensors"
        if written:
            save_file(written, scratch / name, {"format": "pt"})
        weight_map |= dict.fromkeys(written, name)
    write_index(scratch, weight_map)


def _filled(key: str, tensor: Tensor, shape: torch.Size, report: ConversionReport) -> Tensor:
    """The tensor in its target's shape. A row of the vocabulary that the source lacks gets the mean of those that it has:
    as an output its logit is the mean of theirs, which is never the greatest."""
    missing = shape[0] - tensor.shape[0] if key in _VOCABULARY_KEYS else 0
    if missing <= 0:
        require_shape(key, tensor.shape, shape)
        return tensor.contiguous()
    require_shape(key, tensor.shape[1:], shape[1:])
    report.filled_rows[key] = missing
    mean = tensor.float().mean(dim=0, keepdim=True).to(tensor.dtype)
    return torch.cat([tensor, mean.expand(missing, -1)])
