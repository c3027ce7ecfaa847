"""Which weights are trained, and how much of them."""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from safemirage.config.base import Strict, input_path, not_identity


@dataclass(frozen=True, kw_only=True)
class LoraConfig(Strict):
    """Adapters on every linear layer of the language model; the projector is trained in full beside them."""

    rank: Annotated[int, Field(ge=1)] = 128
    alpha: Annotated[float, Field(gt=0)] = 256.0
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.05
    train_projector: bool = True
    merge: bool = False
    """Export the merged weights beside the adapter."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig(Strict):
    path: str = input_path()
    """An export's folder, a folder in the hub's layout, or a hub id."""
    revision: str = "main"
    """Hub revision; read only when `path` is a hub id."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    lora: LoraConfig | None = None
    trainable: tuple[str, ...] = ()
    """Regular expressions on parameter names (full training). Empty: all but the vision tower.
    `{language}` and `{projector}` stand for the family's own prefixes."""
    max_length: Annotated[int, Field(ge=8)] = 2048
    """Tokens a sample may have, image tokens included."""
    attention: Literal["auto", "eager", "sdpa", "flash_attention_2"] = "auto"
    gradient_checkpointing: bool = not_identity(False)
