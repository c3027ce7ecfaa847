"""The Engine seam: how a loss becomes a step. TorchEngine in one process here, DeepSpeedEngine for ZeRO 0 to 3 in `zero.py`.

Losses are shares of the global batch, so an engine *sums* gradients over workers and micro-batches.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from safemirage.config.train import DeepSpeedEngineConfig, OptimConfig, TrainConfig
from safemirage.methods.forward import inference
from safemirage.methods.method import LossOutput
from safemirage.training.saving.pieces import Piece, copy_pieces, fill_pieces
from safemirage.training.schedule import ADAM_EPS, parameter_groups, set_rates
from safemirage.training.zero import DeepSpeedEngine

T = TypeVar("T")
EngineState = dict[str, Any]
"""What one worker's engine writes into a checkpoint: `pieces`, and what else its own kind needs."""


class Engine(Protocol):
    """One worker's part of the training machinery. Calls marked collective are made by all workers alike."""

    rank: int
    world_size: int
    device: torch.device

    def loss(self, compute: Callable[[nn.Module], LossOutput]) -> LossOutput:
        """Runs `compute` on the module. The module's weights may be read only in here."""

    def infer(self, compute: Callable[[nn.Module], T]) -> T:
        """Runs `compute` on the module without gradient and with dropout off. Collective: with parameters shared out
        among the workers, all make the same calls of the module."""

    def backward(self, loss: Tensor) -> None:
        """Adds the gradient of one micro-batch's share. Collective; `accumulation` times a step."""

    def step(self, *, rate_factor: float) -> float:
        """Updates the weights with learning rates times `rate_factor`; returns the gradient's norm before clipping,
        nan where the step was skipped for a float16 overflow. Collective."""

    def copy_state(self) -> EngineState:
        """A copy, on the CPU, of what this worker writes into a checkpoint: trained weights and optimizer. Frozen weights
        are those of the model that the run starts from, and are not written again."""

    def load_state(self, saved: Sequence[EngineState]) -> None:
        """Takes up what all workers of some run wrote, however many they were and whatever their stage. Collective."""

    def state_dict(self) -> dict[str, Tensor] | None:
        """All weights on the CPU, on rank 0; None elsewhere. Collective."""


class TorchEngine:
    """Plain PyTorch, one process, float32."""

    rank = 0
    world_size = 1

    def __init__(
        self,
        module: nn.Module,
        groups: Sequence[dict[str, Any]],
        optim: OptimConfig,
        device: torch.device,
    ) -> None:
        self.device = device
        self._module = module.to(device)
        self._optimizer = torch.optim.AdamW(list(groups), betas=optim.betas, eps=ADAM_EPS)
        self._rates = [group["lr"] for group in self._optimizer.param_groups]
        self._max_norm = optim.max_grad_norm

    def loss(self, compute: Callable[[nn.Module], LossOutput]) -> LossOutput:
        return compute(self._module)

    def infer(self, compute: Callable[[nn.Module], T]) -> T:
        with inference(self._module):
            return compute(self._module)

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def step(self, *, rate_factor: float) -> float:
        # With a bound of infinity nothing is clipped, and the norm is known all the same.
        norm = nn.utils.clip_grad_norm_(self._trained(), self._max_norm or float("inf"))
        # Each group keeps its own rate; the schedule is one factor on all of them.
        set_rates(self._optimizer.param_groups, self._rates, rate_factor)
        self._optimizer.step()
        self._optimizer.zero_grad()
        return float(norm)

    def copy_state(self) -> EngineState:
        return {"pieces": copy_pieces(self._pieces(), self._optimizer.state)}

    def load_state(self, saved: Sequence[EngineState]) -> None:
        parts = [part["pieces"] for part in saved]
        fill_pieces(self._pieces(), self._optimizer.state, parts, step_is_tensor=True)

    def state_dict(self) -> dict[str, Tensor] | None:
        return {name: value.detach().cpu() for name, value in self._module.state_dict().items()}

    def _trained(self) -> list[nn.Parameter]:
        return [p for group in self._optimizer.param_groups for p in group["params"]]

    def _pieces(self) -> list[Piece]:
        """Each trained parameter, whole."""
        named = self._module.named_parameters()
        return [Piece(name, 0, p, 0, p.numel()) for name, p in named if p.requires_grad]


def build_engine(
    module: nn.Module,
    config: TrainConfig,
    *,
    projector: str,
    device: torch.device,
    frozen: Sequence[nn.Module] = (),
) -> Engine:
    """The engine that the config names, around a module that holds its initial weights.

    Args:
        frozen: what a method holds beside the module.
    """
    groups = parameter_groups(module, config.optim, projector=projector)
    if isinstance(config.engine, DeepSpeedEngineConfig):
        return DeepSpeedEngine(module, groups, config, device, frozen)
    return TorchEngine(module, groups, config.optim, device)
