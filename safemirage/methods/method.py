"""The Method seam."""

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
    """Named scalars for the log, detached; names are `forget/...` and `retain/...`. Shares, as the total."""


class Method(Protocol):
    needs_reference_logps: bool
    """Whether the loop must fill `forget.reference_logps_B` from the initial weights."""

    def loss(self, model: nn.Module, batch: StepBatch) -> LossOutput: ...
