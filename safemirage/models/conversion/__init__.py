"""Converts a checkpoint from the original LLaVA's layout to the hub's, checked back key by key and text by text.
Command: `safemirage convert SRC --to DST`."""

from pathlib import Path

from safemirage.models.conversion.full import convert_full
from safemirage.models.conversion.layout import ConversionError, is_lora
from safemirage.models.conversion.lora import convert_lora
from safemirage.models.conversion.source import ConversionReport

__all__ = ["ConversionError", "ConversionReport", "convert"]


def convert(
    source: Path, target: Path, *, base: str | None = None, vision_tower: Path | None = None
) -> ConversionReport:
    """Writes `target` as an export in the hub layout: a full model, or of a LoRA checkpoint an adapter on `base`.

    Args:
        base: what a LoRA checkpoint was trained on, in the hub layout: a folder, an export or a hub id.
        vision_tower: folder of the CLIP weights, where a full checkpoint has only their name.

    Raises:
        ConversionError: a key without a place, a place without a key, another shape, another value read back, or other token ids.
    """
    source = Path(source)
    if not source.is_dir():
        raise ConversionError(f"{source}: no such folder")
    if is_lora(source):
        if base is None:
            raise ConversionError(
                f"{source}: a LoRA checkpoint; give the model that it was trained on, in the hub layout, as --base"
            )
        return convert_lora(source, target, base)
    if base is not None:
        raise ConversionError(f"{source}: a full checkpoint, which needs no --base")
    return convert_full(source, target, vision_tower)
