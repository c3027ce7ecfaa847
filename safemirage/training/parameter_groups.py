"""Which trained parameters are updated alike: by learning rate and weight decay."""

from typing import Any

from torch import nn

from safemirage.config.loading.load import ConfigError
from safemirage.config.train import OptimConfig


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
