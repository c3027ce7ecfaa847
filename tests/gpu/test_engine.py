"""DeepSpeed on a GPU: bf16 with the fused AdamW against plain PyTorch, and a checkpoint's round trip."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from safemirage.config.loading.load import build_config
from safemirage.config.train import TrainConfig
from safemirage.methods.method import LossOutput
from safemirage.training.engine import Engine, build_engine

pytestmark = pytest.mark.timeout(600)  # compiles FusedAdam or CPUAdam at the first start

CUDA = torch.device("cuda", 0)
WIDTH = 64
STEPS = 20


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.projector = nn.Linear(WIDTH, WIDTH)
        self.body = nn.Linear(WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, 1)

    def forward(self, x_BI: Tensor) -> Tensor:
        hidden = torch.tanh(self.body(torch.tanh(self.projector(x_BI))))
        output: Tensor = self.head(hidden)
        return output


def config(*, dtype: str = "bfloat16", **engine: Any) -> TrainConfig:
    return build_config(
        TrainConfig,
        {
            "model": {"path": "unused", "dtype": dtype},
            "data": {"retain": "unused.json"},
            "optim": {"learning_rate": 1e-3, "batch_size": 16, "steps": STEPS, "accumulation": 2},
            "engine": {"name": "deepspeed", **engine},
            "workers": {"gpu": True},
        },
    )


def start(config: TrainConfig) -> Engine:
    dtype = getattr(torch, config.model.dtype)
    return build_engine(Net().to(dtype), config, projector="projector", device=CUDA)


def inputs(step: int, dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(step)
    return torch.randn(16, WIDTH, generator=generator).to(CUDA, dtype)


def share(module: nn.Module, x_BI: Tensor) -> LossOutput:
    error_B = module(x_BI).squeeze(1).float() - x_BI.float().mean(dim=1)
    return LossOutput(total=error_B.square().sum() / 16, parts={})


def take_steps(engine: Engine, config: TrainConfig, first: int, last: int) -> list[float]:
    losses = []
    for step in range(first, last):
        loss = 0.0
        for part in inputs(step, getattr(torch, config.model.dtype)).chunk(2):
            output = engine.loss(partial(share, x_BI=part))
            engine.backward(output.total)
            loss += output.total.item()
        engine.step(rate_factor=1.0)
        losses.append(loss)
    return losses


@pytest.fixture(scope="module")
def plain() -> list[float]:
    """float32, PyTorch's AdamW."""
    module = Net().to(CUDA)
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-3, weight_decay=0.0)
    losses = []
    for step in range(STEPS):
        output = share(module, inputs(step, torch.float32))
        optimizer.zero_grad()
        output.total.backward()
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        losses.append(output.total.item())
    return losses


@pytest.mark.parametrize(
    "engine",
    [
        {"stage": 2},
        {"stage": 3},
        {"stage": 2, "optimizer": "torch"},
        {"stage": 2, "offload_optimizer": True},
        {"stage": 3, "offload_optimizer": True, "offload_parameters": True},
    ],
    ids=["zero2", "zero3", "zero2-torch", "zero2-offload", "zero3-offload"],
)
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-4), ("bfloat16", 0.05)])
def test_engine_on_a_gpu_gives_the_losses_of_plain_torch(
    plain: list[float], engine: dict[str, Any], dtype: str, tolerance: float
) -> None:
    chosen = config(dtype=dtype, **engine)
    losses = take_steps(start(chosen), chosen, 0, STEPS)
    # bf16 has 8 bits of mantissa: a loss of 20 steps may be off by a few hundredths.
    assert losses == pytest.approx(plain, rel=tolerance, abs=tolerance * plain[0])
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("stage", [2, 3])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_engine_on_a_gpu_resumed_from_its_state_goes_on_as_if_undisturbed(
    stage: int, dtype: str
) -> None:
    chosen = config(dtype=dtype, stage=stage)
    undisturbed = start(chosen)
    take_steps(undisturbed, chosen, 0, 5)
    saved = undisturbed.copy_state()
    rest = take_steps(undisturbed, chosen, 5, 10)
    resumed = start(chosen)
    resumed.load_state([saved])
    assert take_steps(resumed, chosen, 5, 10) == rest


def test_engine_in_float16_scales_its_loss_and_trains() -> None:
    chosen = config(dtype="float16", stage=2)
    engine = start(chosen)
    losses = take_steps(engine, chosen, 0, STEPS)
    assert losses[-1] < losses[0]
