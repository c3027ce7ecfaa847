"""What differs between families of vision-language models: one file each, told apart by `model_type`.

`family.py` says what a family must give; `llava.py` is the plainest example.
"""

from typing import Protocol

from safemirage.models.families.family import Family
from safemirage.models.families.idefics3 import IDEFICS3
from safemirage.models.families.internvl import INTERNVL
from safemirage.models.families.llava import LLAVA
from safemirage.models.families.llava_next import LLAVA_NEXT
from safemirage.models.families.llava_onevision import LLAVA_ONEVISION
from safemirage.models.families.qwen2_5_vl import QWEN2_5_VL
from safemirage.models.families.qwen2_vl import QWEN2_VL
from safemirage.models.families.qwen3_vl import QWEN3_VL
from safemirage.models.families.smolvlm import SMOLVLM

__all__ = [
    "FAMILIES",
    "IDEFICS3",
    "INTERNVL",
    "LLAVA",
    "LLAVA_NEXT",
    "LLAVA_ONEVISION",
    "QWEN2_5_VL",
    "QWEN2_VL",
    "QWEN3_VL",
    "SMOLVLM",
    "Family",
    "UnknownFamilyError",
    "family_of",
]

FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        LLAVA,
        LLAVA_NEXT,
        LLAVA_ONEVISION,
        QWEN2_VL,
        QWEN2_5_VL,
        QWEN3_VL,
        INTERNVL,
        IDEFICS3,
        SMOLVLM,
    )
}


class UnknownFamilyError(ValueError):
    """A model whose `model_type` has no description here."""


class HasModelType(Protocol):
    model_type: str


def family_of(config: HasModelType) -> Family:
    """The family of a model's config.

    Raises:
        UnknownFamilyError: its `model_type` is not described here.
    """
    try:
        return FAMILIES[config.model_type]
    except KeyError:
        raise UnknownFamilyError(
            f"model_type {config.model_type!r} is no known family; known: {', '.join(sorted(FAMILIES))}. "
            "A new one is a file in safemirage/models/families/ and its place in FAMILIES"
        ) from None
