"""Presets of template and image preprocessing: the two ways of the original, as parts of an ordinary processor.

They end in the files of an export, so that whatever reads those (transformers, vLLM, our service) does the same; where a
model is asked in another way than its files say, `write_view` makes such files for the time.
"""

import os
from pathlib import Path
from typing import Any

from transformers import CLIPImageProcessorPil, LlavaImageProcessorPil

from safemirage.config.loading.identity import MERGED_NAME, digest_of
from safemirage.config.loading.load import ConfigError
from safemirage.config.model import Presets
from safemirage.models.families import Family
from safemirage.models.manifest import MANIFEST_NAME, processor_digest

_NOT_LINKED = (MANIFEST_NAME, MERGED_NAME, "chat_template.json")
"""Files that a view has none of, because they are not true of it, or an older form of what the processor writes there."""
_KEPT = ("size", "crop_size", "resample", "rescale_factor", "image_mean", "image_std")


def apply_presets(processor: Any, family: Family, presets: Presets) -> None:
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
