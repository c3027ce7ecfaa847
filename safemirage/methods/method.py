"""What the training loop asks of a method, and what a method returns."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from safemirage.methods.batch import StepBatch


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

    def loss(self, model: nn.Module, batch: StepBatch) -> LossOutput:
        """This worker's share. `model` is the module inside the engine (a PEFT model under LoRA)."""

    def state_dict(self) -> dict[str, Tensor]:
        """What a checkpoint must hold beside the model's weights."""

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None: ...


class Stateless:
    """The two calls of a method that keeps nothing beside the model's weights."""

    def state_dict(self) -> dict[str, Tensor]:
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        assert not state
