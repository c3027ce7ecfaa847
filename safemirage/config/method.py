"""The unlearning and tuning methods and their options; `name` tells them apart. docs/concepts/methods.md has their formulas."""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from safemirage.config.types import NonNegative, Positive, Strict

Reduction = Literal["sum", "mean"]


@dataclass(frozen=True, kw_only=True)
class RetainConfig(Strict):
    """Terms that hold everything else in place; options of every method."""

    retain_weight: NonNegative = 1.0
    """Weight of the cross-entropy on the retain set."""
    kl_weight: NonNegative = 0.0
    """Weight of KL(reference || policy) at the supervised positions of the retain set. With full parameters each
    worker then holds a frozen copy of the trained weights; under LoRA there is no copy."""
    decouple_weight: NonNegative = 0.0
    """Weight of the cross-entropy on `data.decouple`: SafeEraser's prompt decoupling."""


@dataclass(frozen=True, kw_only=True)
class SFTConfig(RetainConfig):
    """Supervised fine-tuning: the cross-entropy of the retain set. Baselines and base models."""

    name: Literal["sft"] = "sft"
    retain_weight: Positive = 1.0
    """Weight of the cross-entropy on the retain set."""


@dataclass(frozen=True, kw_only=True)
class GradientAscentConfig(RetainConfig):
    """The forget set's cross-entropy, raised. Without bound: it is the limit of the others, and a baseline."""

    name: Literal["gradient_ascent"] = "gradient_ascent"
    forget_weight: NonNegative = 1.0
    """Weight of the forget term."""
    retain_weight: NonNegative = 0.0
    """Weight of the cross-entropy on the retain set; with one it is `gradient_difference`."""


@dataclass(frozen=True, kw_only=True)
class GradientDifferenceConfig(RetainConfig):
    """The forget set's cross-entropy raised, the retain set's lowered."""

    name: Literal["gradient_difference"] = "gradient_difference"
    forget_weight: NonNegative = 1.0
    """Weight of the forget term."""


@dataclass(frozen=True, kw_only=True)
class NPOConfig(RetainConfig):
    """Negative preference optimisation on the forget set, cross-entropy on the retain set."""

    name: Literal["npo"] = "npo"
    beta: Positive = 0.1
    """Inverse temperature, per nat of the reduction: beta -> 0 recovers gradient ascent."""
    reduction: Reduction = "sum"
    """`sum`: log-ratio summed over a sample's supervised tokens (the paper of NPO).
    `mean`: token-mean over groups of `group_size` samples (Safety Mirage's code). beta has other units in each."""
    group_size: Annotated[int, Field(ge=1)] = 1
    """Read with `mean` only: how many consecutive samples of the global order share one log-ratio."""
    forget_weight: NonNegative = 1.0
    """Weight of the forget term."""
    retain_term: Literal["none", "original", "preference"] = "none"
    """A log-sigmoid term on the retain set, with the same beta and reduction. `original` (Safety Mirage's code) is the
    negative of NPO: its pull fades where the retain answers have become worse than the reference's. `preference`
    fades where they have become better."""
    retain_term_weight: NonNegative = 1.0
    """Weight of `retain_term`."""


@dataclass(frozen=True, kw_only=True)
class SimNPOConfig(RetainConfig):
    """NPO without a reference: the length-normalised log-probability against a margin."""

    name: Literal["simnpo"] = "simnpo"
    beta: Positive = 2.5
    """Inverse temperature, per nat of a token's mean; the paper takes 2.5 to 5.5 on TOFU and WMDP."""
    gamma: NonNegative = 0.0
    """Reward margin, added after beta as in the paper; its code writes beta * gamma for it."""
    forget_weight: NonNegative = 1.0
    """Weight of the forget term."""


@dataclass(frozen=True, kw_only=True)
class DPOConfig(RetainConfig):
    """Direct preference optimisation: a refusal is preferred to the forget set's answer."""

    name: Literal["dpo"] = "dpo"
    beta: Positive = 0.1
    """Inverse temperature, per nat of a sample's sum."""
    forget_weight: NonNegative = 1.0
    """Weight of the forget term."""


@dataclass(frozen=True, kw_only=True)
class IDKConfig(RetainConfig):
    """The cross-entropy of the preferred answers to the forget set's questions."""

    name: Literal["idk"] = "idk"
    forget_weight: NonNegative = 1.0
    """Weight of the forget term."""


@dataclass(frozen=True, kw_only=True)
class RMUConfig(RetainConfig):
    """Representation misdirection: forget activations are steered to a random vector, retain ones held."""

    name: Literal["rmu"] = "rmu"
    hook_layer: Annotated[int, Field(ge=0)] = 7
    """0-based decoder layer whose output is steered."""
    steering_coefficient: Positive = 10.0
    """Length c of the control vector. Read only without `adaptive_scale`."""
    adaptive_scale: Positive | None = None
    """Adaptive RMU: each forget sample is steered to this many times the length of its own activations before
    training, so that one value fits any hook layer; its paper takes 5. None: the fixed length above."""
    mask: Literal["all", "text", "answer"] = "all"
    """Which positions count: every one but padding (the original, whose batches hold one sample), all but image
    tokens and padding, or supervised ones."""
    forget_weight: NonNegative = 1.0
    """Weight of the forget term."""
    alpha: NonNegative = 1.0
    """Weight of the squared distance between retain activations and the reference's."""

    def __post_init__(self) -> None:
        weights = ("forget_weight", "alpha", "retain_weight", "kl_weight", "decouple_weight")
        if not any(getattr(self, name) for name in weights):
            raise ValueError(
                f"{', '.join(weights)} are all 0, so there is nothing to train for; raise one"
            )


MethodConfig = Annotated[
    SFTConfig
    | GradientAscentConfig
    | GradientDifferenceConfig
    | NPOConfig
    | SimNPOConfig
    | DPOConfig
    | IDKConfig
    | RMUConfig,
    Field(discriminator="name"),
]


def needed_sets(method: MethodConfig) -> tuple[str, ...]:
    """The sets that a method draws batches of beside the retain set: fields of StepBatch."""
    decouple = ("decouple",) if method.decouple_weight > 0 else ()
    match method:
        case SFTConfig():
            return decouple
        case DPOConfig() | IDKConfig():
            return ("forget", "preferred", *decouple)
        case _:
            return ("forget", *decouple)
