from typing import Any

import pytest
import torch
from transformers import get_scheduler

from safemirage.config.train import OptimConfig
from safemirage.training.schedule import rate_factor, total_steps


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
@pytest.mark.parametrize("warmup_ratio", [0.0, 0.03, 0.25])
def test_rate_factor_equals_transformers_schedule_step_for_step(
    schedule: Any, warmup_ratio: float
) -> None:
    total = 37
    optim = OptimConfig(
        learning_rate=1.0, steps=total, schedule=schedule, warmup_ratio=warmup_ratio
    )
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    warmup = -(-total * warmup_ratio // 1)
    theirs = get_scheduler(
        schedule, optimizer, num_warmup_steps=int(warmup), num_training_steps=total
    )
    for step in range(total):
        factor = rate_factor(optim, step=step, total=total)
        assert factor == pytest.approx(theirs.get_last_lr()[0], abs=1e-12)
        optimizer.step()
        theirs.step()


def test_rate_factor_constant_after_warmup_is_one() -> None:
    optim = OptimConfig(learning_rate=1.0, steps=10, schedule="constant", warmup_ratio=0.2)
    factors = [rate_factor(optim, step=step, total=10) for step in range(10)]
    assert factors == [0.0, 0.5, *[1.0] * 8]


@pytest.mark.parametrize(
    ("epochs", "num_retain", "expected"), [(1, 2000, 250), (0.5, 10, 1), (3, 9, 4), (0.001, 8, 1)]
)
def test_total_steps_of_epochs_cover_the_retain_set(
    epochs: float, num_retain: int, expected: int
) -> None:
    optim = OptimConfig(learning_rate=1.0, epochs=epochs, batch_size=8)
    assert total_steps(optim, num_retain=num_retain) == expected
