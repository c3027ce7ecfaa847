"""How weights are updated: which of them alike, how many steps there are, and by what rates are multiplied at each."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from safemirage.config.loading.load import ConfigError
from safemirage.config.train import OptimConfig

ADAM_EPS = 1e-8


def parameter_groups(
    module: nn.Module, optim: OptimConfig, *, projector: str
) -> list[dict[str, Any]]:
    """Trained parameters by learning rate and weight decay; biases and norms (one axis or none) have no decay.

    Args:
        projector: what the names of the projector's parameters contain.

    Raises:
        ConfigError: nothing is trained.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        in_projector = projector in name and optim.projector_learning_rate is not None
        rate = optim.projector_learning_rate if in_projector else optim.learning_rate
        assert rate is not None
        decay = optim.weight_decay if parameter.ndim > 1 else 0.0
        groups.setdefault((rate, decay), []).append(parameter)
    if not groups:
        raise ConfigError(
            "model.trainable: no parameter of the model matches, so there is nothing to train"
        )
    return [
        {"params": parameters, "lr": rate, "weight_decay": decay}
        for (rate, decay), parameters in groups.items()
    ]


def total_steps(optim: OptimConfig, *, num_retain: int) -> int:
    """Optimizer steps of the run; with `epochs`, enough to see the retain set that often."""
    if optim.steps is not None:
        return optim.steps
    assert optim.epochs is not None
    return max(1, math.ceil(optim.epochs * num_retain / optim.batch_size))


def rate_factor(optim: OptimConfig, *, step: int, total: int) -> float:
    """What learning rates are multiplied by at a 0-based step: that of transformers' schedules.

    Warm-up is linear from 0 over ceil(warmup_ratio x total) steps; then constant, or down towards 0 as a line or as
    half a cosine. Cosine and constant are transformers' to the last bit; its line rounds otherwise in a third of all
    steps, which would change the losses of runs, so the few lines stay here.
    """
    warmup = math.ceil(optim.warmup_ratio * total)
    if step < warmup:
        return step / warmup
    done = (step - warmup) / max(1, total - warmup)
    match optim.schedule:
        case "constant":
            return 1.0
        case "linear":
            return max(0.0, 1.0 - done)
        case "cosine":
            return max(0.0, 0.5 * (1.0 + math.cos(math.pi * done)))


def set_rates(groups: Sequence[Mapping[str, Any]], rates: Sequence[float], factor: float) -> None:
    for group, rate in zip(groups, rates, strict=True):
        # Set outright rather than scaled, so that rounding does not add up over the steps.
        group["lr"] = rate * factor  # type: ignore[index]
