"""How many steps a run has, and by what its learning rates are multiplied at each."""

import math

from safemirage.config.train import OptimConfig


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
