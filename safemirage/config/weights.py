"""What is done to a model's weights before they answer: an adapter scaled or switched off, weights quantised."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field

from safemirage.config.types import Strict


@dataclass(frozen=True, kw_only=True)
class RoundToNearestConfig(Strict):
    """Our own rounding of the weights; see models/precision.py. The same numbers on every machine."""

    name: Literal["round_to_nearest"] = "round_to_nearest"
    bits: Annotated[int, Field(ge=2, le=8)] = 4
    """Bits of a weight."""
    group_size: Annotated[int, Field(ge=1)] | None = None
    """Consecutive weights of an output channel that share a scale. None: the whole channel."""

    @property
    def title(self) -> str:
        group = "" if self.group_size is None else f"-g{self.group_size}"
        return f"int{self.bits}{group}"


@dataclass(frozen=True, kw_only=True)
class BitsAndBytesConfig(Strict):
    """The package bitsandbytes, on CUDA: `nf4` (QLoRA's 4-bit NormalFloat) or `int8` (LLM.int8())."""

    name: Literal["bitsandbytes"] = "bitsandbytes"
    kind: Literal["nf4", "int8"] = "nf4"
    """The format of a weight."""

    @property
    def title(self) -> str:
        return f"bitsandbytes-{self.kind}"


QuantisationConfig = Annotated[
    RoundToNearestConfig | BitsAndBytesConfig, Field(discriminator="name")
]


@dataclass(frozen=True, kw_only=True)
class WeightsConfig(Strict):
    """The defaults leave the weights as they are."""

    adapter_scale: Annotated[float, Field(ge=0)] = 1.0
    """How much of an adapter is put on its base: W = base + scale (trained - base). 0 is the base; an export without
    adapter takes 1 alone."""
    quantisation: QuantisationConfig | None = field(default=None)
    """How the linear layers of the language model are quantised."""
