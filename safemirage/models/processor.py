"""A model's processor: loaded, changed by the presets of template and image preprocessing, checked against its model.

The presets are the two ways of the original, as parts of an ordinary processor. They end in the files of an export, so
that whatever reads those (transformers, vLLM, our service) does the same; where a model is asked in another way than its
files say, `write_view` makes such files for the time.
"""

import os
from collections.abc import Iterator
from operator import attrgetter
from pathlib import Path
from typing import Any

import transformers
from PIL import Image
from transformers import (
    AutoProcessor,
    AutoVideoProcessor,
    CLIPImageProcessorPil,
    LlavaImageProcessorPil,
)

from safemirage.config.loading.identity import MERGED_NAME, digest_of
from safemirage.config.loading.load import ConfigError
from safemirage.config.model import Presets
from safemirage.models.families import Family
from safemirage.models.manifest import MANIFEST_NAME, processor_digest

AS_SAVED = Presets()
_NOT_LINKED = (MANIFEST_NAME, MERGED_NAME, "chat_template.json")
"""Files that a view has none of, because they are not true of it, or an older form of what the processor writes there."""
_KEPT = ("size", "crop_size", "resample", "rescale_factor", "image_mean", "image_std")
_CLASS_TOKENS = {"clip_vision_model": 1, "siglip_vision_model": 0}
"""How many tokens a vision tower makes, by its `model_type`, beside those of the patches."""


def load_processor(
    folder: Path, family: Family, config: Any, *, presets: Presets = AS_SAVED
) -> Any:
    """The processor, with PIL image preprocessing (torchvision's gives other pixels) and a chat template.

    Raises:
        ConfigError: presets that the family does not have, or a processor that does not fit the model.
    """
    _serve_videos_with_pil(family, config)
    processor = AutoProcessor.from_pretrained(folder, backend="pil")
    if processor.chat_template is None:
        # Older exports of a family have none; without one no prompt can be rendered.
        processor.chat_template = family.chat_template
    if family.patch_size_in_model and processor.patch_size is None:
        processor.patch_size = config.vision_config.patch_size
        processor.vision_feature_select_strategy = config.vision_feature_select_strategy
        processor.num_additional_image_tokens = _CLASS_TOKENS.get(
            config.vision_config.model_type, 0
        )
    _apply_presets(processor, family, presets)
    _check_fit(folder, processor, family, config)
    return processor


def _serve_videos_with_pil(family: Family, config: Any) -> None:
    """Makes the family's one processor for videos the answer to `backend="pil"` too.

    Asked for PIL images, AutoProcessor asks for PIL videos as well, and transformers has none; vLLM in this process loads
    the processor in the same way.
    """
    if family.video_processor is not None:
        kind = getattr(transformers, family.video_processor)
        AutoVideoProcessor.register(
            type(config), video_processor_classes={"torchvision": kind, "pil": kind}, exist_ok=True
        )


def _apply_presets(processor: Any, family: Family, presets: Presets) -> None:
    """Puts template and image preprocessing of `presets` into the processor.

    Raises:
        ConfigError: the family does not have them.
    """
    if presets.template != "processor":
        if presets.template not in family.templates:
            allowed = ", ".join(["processor", *family.templates])
            raise ConfigError(
                f"model.template: {presets.template!r} is none of {family.name}'s; allowed: {allowed}"
            )
        processor.chat_template = family.templates[presets.template]
    if presets.image_preprocessing != "processor":
        if not family.takes_square_images:
            raise ConfigError(
                f"model.image_preprocessing: {presets.image_preprocessing!r}, but {family.name} takes images of "
                "any shape; allowed: processor"
            )
        pad = presets.image_preprocessing == "pad"
        processor.image_processor = square_images(processor.image_processor, pad=pad)


def square_images(source: Any, *, pad: bool) -> Any:
    """An image processor of the source's sizes and colours that pads to a square, or else crops the centre.

    The padding's colour is the mean colour in whole numbers, and stands on both sides, as LLaVA's `expand2square` has it.
    """
    kept = {name: getattr(source, name) for name in _KEPT}
    return LlavaImageProcessorPil(**kept, do_pad=True) if pad else CLIPImageProcessorPil(**kept)


def write_view(source: Path, processor: Any, view: Path) -> None:
    """Makes `view`, an empty folder, a model's folder that differs from `source` in its processor alone.

    For engines that read a processor from files. What the processor does not write is a link into `source`.
    """
    write_processor(view, processor)  # first: through a link it would write into `source`
    for item in source.iterdir():
        if item.name not in _NOT_LINKED and not (view / item.name).exists():
            os.symlink(item.absolute(), view / item.name)


def write_processor(folder: Path, processor: Any) -> None:
    processor.save_pretrained(folder)
    # Readers older than transformers 5 look for the image processor in a file of its own.
    processor.image_processor.save_pretrained(folder)


def presets_digest(folder: Path, presets: Presets) -> str:
    """SHA-256 in hex over what turns a question and an image into a model's inputs: a folder's files and presets."""
    of_files = processor_digest(folder)
    if presets == Presets():
        return of_files
    return digest_of(
        {
            "processor": of_files,
            "template": presets.template,
            "image_preprocessing": presets.image_preprocessing,
        }
    )


def _check_fit(folder: Path, processor: Any, family: Family, config: Any) -> None:
    """What two files of one folder say of the same thing must be equal. Where it is not, the first question fails with a
    shape error in the middle of the model, or, worse, none does.

    Raises:
        ConfigError: they do not fit, with the values of both files.
    """
    wrong = [
        f"{ours} is {here!r} in processor_config.json, but {theirs} is {there!r} in config.json"
        for ours, here, theirs, there in _compared(processor, family, config)
        if here != there
    ]
    if wrong:
        raise ConfigError(
            f"model.path: {folder}: processor and model do not fit: {'; '.join(wrong)}. Take both files from one model, "
            "or put the model's value into the processor's file"
        )


def _compared(processor: Any, family: Family, config: Any) -> Iterator[tuple[str, Any, str, Any]]:
    """(name and value in the processor, name and value in the model)."""
    for ours, theirs in family.shared_settings:
        yield ours, attrgetter(ours)(processor), theirs, attrgetter(theirs)(config)
    if not family.patch_size_in_model:
        return
    tower = config.vision_config
    if tower.model_type in _CLASS_TOKENS:
        name = "num_additional_image_tokens"
        needed = _CLASS_TOKENS[tower.model_type]
        yield name, getattr(processor, name), f"what {tower.model_type} adds", needed
    shown = processor.image_processor(images=[Image.new("RGB", (32, 32))], return_tensors="pt")
    side = tower.image_size
    sizes = tuple(shown["pixel_values"].shape[-2:])
    yield "the size of a prepared image", sizes, "vision_config.image_size", (side, side)
