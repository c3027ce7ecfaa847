"""The unlearning and tuning methods and their options; `name` tells them apart."""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from safemirage.config.base import Strict

NonNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]


@dataclass(frozen=True, kw_only=True)
class SFTConfig(Strict):
    """Supervised fine-tuning: the cross-entropy of the retain set. Baselines and base models."""

    name: Literal["sft"] = "sft"


@dataclass(frozen=True, kw_only=True)
class NPOConfig(Strict):
    """Negative preference optimisation on the forget set, cross-entropy on the retain set."""

    name: Literal["npo"] = "npo"
    beta: Positive = 0.1
    """Inverse temperature, per nat of the reduction: beta -> 0 recovers gradient ascent."""
    reduction: Literal["sum", "mean"] = "sum"
    """`sum`: log-ratio summed over a sample's supervised tokens (the paper of NPO).
    `mean`: token-mean over groups of `group_size` samples (Safety Mirage's code). beta has other units in each."""
    group_size: Annotated[int, Field(ge=1)] = 1
    """With `mean`: how many consecutive samples of the global order share one log-ratio."""
    forget_weight: NonNegative = 1.0
    retain_weight: NonNegative = 1.0
    """Weight of the cross-entropy on the retain set."""


@dataclass(frozen=True, kw_only=True)
class RMUConfig(Strict):
    """Representation misdirection: forget activations are steered to a random vector, retain ones held."""

    name: Literal["rmu"] = "rmu"
    hook_layer: Annotated[int, Field(ge=0)] = 7
    """0-based decoder layer whose output is steered."""
    steering_coefficient: Positive = 10.0
    """Length c of the control vector."""
    mask: Literal["all", "text", "answer"] = "all"
    """Which positions count: every one but padding (the original, whose batches hold one sample), all but image
    tokens and padding, or supervised ones."""
    forget_weight: NonNegative = 1.0
    alpha: NonNegative = 1.0
    """Weight of the squared distance between retain activations and the reference's."""
    retain_weight: NonNegative = 1.0
    """Weight of the cross-entropy on the retain set."""


MethodConfig = Annotated[SFTConfig | NPOConfig | RMUConfig, Field(discriminator="name")]
