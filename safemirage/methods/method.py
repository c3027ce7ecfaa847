"""What the training loop asks of a method: what it sees of a step, and what it returns.

Tensor suffixes: B samples, T positions (image tokens included), V vocabulary, H hidden.

A loss is a *share* of the global batch, divided by sizes that a `Batch` carries: the shares of all workers and
micro-batches of a step add up to the loss of the whole, so what is learned does not depend on how it is cut.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One worker's micro-batch of one set. All tensors lie on the model's device."""

    inputs: dict[str, Tensor]
    """What the model's forward takes: input_ids_BT, attention_mask_BT, pixel_values, ..."""
    labels_BT: Tensor
    """Token ids where supervised, -100 elsewhere; position t is predicted from positions < t."""
    image_mask_BT: Tensor
    """True at image tokens."""
    global_tokens: int
    """Supervised tokens of this set in the whole optimizer step: all workers, all micro-batches."""
    global_samples: int
    """Samples of this set in the whole optimizer step."""
    reference_logps_B: Tensor | None = None
    """float32: the reference model's log-probability of the supervised tokens, summed per sample, in nats."""


@dataclass(frozen=True, kw_only=True)
class StepBatch:
    """One micro-batch of an optimizer step."""

    retain: Batch
    forget: Batch | None = None
    preferred: Batch | None = None
    """The forget batch's questions with the answers to give instead, row by row beside it."""
    decouple: Batch | None = None
    """Questions as the forget set asks them, about harmless images, with ordinary answers."""


@dataclass(frozen=True, kw_only=True)
class LossOutput:
    """A worker's share of a step's loss, in nats (RMU's activation terms: squared activation units)."""

    total: Tensor
    """Scalar to differentiate."""
    parts: dict[str, Tensor]
    """Named scalars for the log, detached; names begin with their set's, `forget/...`. Shares, as the total."""


@dataclass(frozen=True)
class Term:
    """One addend of a method's loss."""

    name: str
    weight: float
    share: Tensor


def loss_output(terms: Sequence[Term], *, logged: Mapping[str, Tensor] | None = None) -> LossOutput:
    """The weighted sum of the terms. Each is logged by its name, without its weight; `logged` is logged beside."""
    total = terms[0].weight * terms[0].share
    for term in terms[1:]:
        total = total + term.weight * term.share
    parts = {term.name: term.share for term in terms} | dict(logged or {})
    return LossOutput(total=total, parts={name: value.detach() for name, value in parts.items()})


class Method(Protocol):
    reference_sets: tuple[str, ...]
    """Fields of StepBatch whose `reference_logps_B` the loop must fill from the initial weights."""

    def prepare(self, model: nn.Module, *, seed: int) -> None:
        """Called once, with the initial weights in the model and before an engine takes it."""

    @property
    def frozen(self) -> Sequence[nn.Module]:
        """Copies of modules that `prepare` made, without children; an engine that parts weights parts theirs too."""

    def loss(self, model: nn.Module, batch: StepBatch) -> LossOutput:
        """This worker's share. `model` is the module inside the engine (a PEFT model under LoRA)."""

    def state_dict(self) -> dict[str, Tensor]:
        """What a checkpoint must hold beside the model's weights."""

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None: ...
