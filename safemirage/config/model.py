"""Which weights are trained, and how much of them."""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from safemirage.config.types import Strict, input_path, not_identity

Template = Literal["processor", "vicuna_v1", "llava_v1"]
ImagePreprocessing = Literal["processor", "pad", "crop"]


@dataclass(frozen=True, kw_only=True)
class Presets(Strict):
    """What replaces a part of the model's own processor. `processor`: that part stays as it is."""

    template: Template = "processor"
    """The conversation: LLaVA's `vicuna_v1`, in which the original trains, or `llava_v1`, in which it evaluates."""
    image_preprocessing: ImagePreprocessing = "processor"
    """How an image becomes a square: `pad` with CLIP's mean colour (the original's training) or `crop` the centre
    (its evaluation)."""


@dataclass(frozen=True, kw_only=True)
class LoraConfig(Strict):
    """Adapters on every linear layer of the language model; the projector is trained in full beside them."""

    rank: Annotated[int, Field(ge=1)] = 128
    """Rank of the adapter's matrices."""
    alpha: Annotated[float, Field(gt=0)] = 256.0
    """The adapter's product is scaled by alpha / rank."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Share of the adapter's inputs that are set to zero in a training step."""
    train_projector: bool = True
    """Train the projector in full, beside the adapters."""
    merge: bool = False
    """Export the merged weights beside the adapter."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig(Strict):
    """The model that is trained, and how it computes."""

    path: str = input_path()
    """An export's folder, a folder in the hub's layout, or a hub id."""
    revision: str = "main"
    """Hub revision; read only when `path` is a hub id."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Number format that the model computes in."""
    lora: LoraConfig | None = None
    trainable: tuple[str, ...] = ()
    """Regular expressions on parameter names (full training). Empty: all but the vision tower.
    `{language}` and `{projector}` stand for the family's own prefixes."""
    template: Template = "processor"
    """See `Presets`; what is chosen here is written into the export's processor."""
    image_preprocessing: ImagePreprocessing = "processor"
    """See `Presets`; what is chosen here is written into the export's processor."""
    max_length: Annotated[int, Field(ge=8)] = 2048
    """Tokens a sample may have, image tokens included."""
    attention: Literal["auto", "eager", "sdpa", "flash_attention_2"] = "auto"
    """Implementation of attention. `auto` leaves the choice to transformers."""
    gradient_checkpointing: bool = not_identity(False)
    """Compute activations again in the backward pass: less memory, about a third more time."""

    @property
    def presets(self) -> Presets:
        return Presets(template=self.template, image_preprocessing=self.image_preprocessing)
