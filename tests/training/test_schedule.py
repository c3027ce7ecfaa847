from typing import Any

import pytest
import torch
from transformers import get_scheduler

from safemirage.config.train import OptimConfig
from safemirage.training.schedule import rate_factor, total_steps


@pytest.mark.parametrize(
    ("schedule", "theirs_named"),
    [("constant", "constant_with_warmup"), ("cosine", "cosine"), ("linear", "linear")],
)
@pytest.mark.parametrize("warmup_ratio", [0.0, 0.03, 0.25])
def test_rate_factor_equals_transformers_schedule_step_for_step(
    schedule: Any, theirs_named: str, warmup_ratio: float
) -> None:
    total = 37
    optim = OptimConfig(
        learning_rate=1.0, steps=total, schedule=schedule, warmup_ratio=warmup_ratio
    )
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    warmup = -(-total * warmup_ratio // 1)
    theirs = get_scheduler(
        theirs_named, optimizer, num_warmup_steps=int(warmup), num_training_steps=total
    )
    for step in range(total):
        factor = rate_factor(optim, step=step, total=total)
        rounding = 1e-15 if schedule == "linear" else 0.0
        assert factor == pytest.approx(theirs.get_last_lr()[0], abs=rounding, rel=0)
        optimizer.step()
        theirs.step()


@pytest.mark.parametrize(
    ("epochs", "num_retain", "expected"), [(1, 2000, 250), (0.5, 10, 1), (3, 9, 4), (0.001, 8, 1)]
)
def test_total_steps_of_epochs_cover_the_retain_set(
    epochs: float, num_retain: int, expected: int
) -> None:
    optim = OptimConfig(learning_rate=1.0, epochs=epochs, batch_size=8)
    assert total_steps(optim, num_retain=num_retain) == expected
