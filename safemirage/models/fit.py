"""Whether a processor fits its model: what two files of one folder say of the same thing must be equal.

Where it is not, the first question fails with a shape error in the middle of the model, or, worse, none does.
"""

from collections.abc import Iterator
from operator import attrgetter
from pathlib import Path
from typing import Any

from PIL import Image

from safemirage.config.loading.load import ConfigError
from safemirage.models.families import Family

CLASS_TOKENS = {"clip_vision_model": 1, "siglip_vision_model": 0}
"""How many tokens a vision tower makes, by its `model_type`, beside those of the patches."""


def check_fit(folder: Path, processor: Any, family: Family, config: Any) -> None:
    """Raises ConfigError with the values of both files where they do not fit."""
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
    if tower.model_type in CLASS_TOKENS:
        name = "num_additional_image_tokens"
        needed = CLASS_TOKENS[tower.model_type]
        yield name, getattr(processor, name), f"what {tower.model_type} adds", needed
    shown = processor.image_processor(images=[Image.new("RGB", (32, 32))], return_tensors="pt")
    side = tower.image_size
    sizes = tuple(shown["pixel_values"].shape[-2:])
    yield "the size of a prepared image", sizes, "vision_config.image_size", (side, side)
