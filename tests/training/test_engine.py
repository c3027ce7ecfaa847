"""One contract, both engines, on the CPU. DeepSpeed runs in this process as a group of one worker."""

import math
import os
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from safemirage.config.loading.load import ConfigError, build_config, to_tree
from safemirage.config.train import OptimConfig, TrainConfig
from safemirage.methods.method import LossOutput
from safemirage.training.engine import (
    Engine,
    build_engine,
)
from safemirage.training.schedule import parameter_groups
from safemirage.training.zero import build_operator, deepspeed_config

ENGINES: list[dict[str, Any]] = [
    {"name": "torch"},
    *({"name": "deepspeed", "stage": stage} for stage in range(4)),
]
each_engine = pytest.mark.parametrize(
    "engine", ENGINES, ids=["torch", "zero0", "zero1", "zero2", "zero3"]
)
deepspeed_starts = pytest.mark.timeout(180)
pytestmark = deepspeed_starts


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.projector = nn.Linear(4, 8)
        self.body = nn.Linear(8, 8)
        self.frozen = nn.Linear(8, 8).requires_grad_(False)
        self.head = nn.Linear(8, 1)

    def forward(self, x_BI: Tensor) -> Tensor:
        hidden = torch.tanh(self.body(torch.tanh(self.projector(x_BI))))
        output: Tensor = self.head(torch.tanh(self.frozen(hidden)))
        return output


def train_config(engine: dict[str, Any], **optim: Any) -> TrainConfig:
    tree = {
        "model": {"path": "unused"},
        "data": {"retain": "unused.json"},
        "optim": {"learning_rate": 0.01, "batch_size": 8, "steps": 5, "weight_decay": 0.1, **optim},
        "engine": engine,
    }
    return build_config(TrainConfig, tree)


def start(config: TrainConfig) -> Engine:
    return build_engine(Net(), config, projector="projector", device=torch.device("cpu"))


def share(module: nn.Module, x_BI: Tensor, num_samples: int) -> LossOutput:
    total = (module(x_BI).squeeze(1) - x_BI.sum(dim=1)).square().sum() / num_samples
    return LossOutput(total=total, parts={"retain/loss": total.detach()})


def take_steps(
    engine: Engine, config: TrainConfig, first: int, last: int
) -> list[tuple[float, float]]:
    """(loss, gradient norm) of each step; the data of a step depend on its number alone."""
    found = []
    for step in range(first, last):
        generator = torch.Generator().manual_seed(step)
        x_BI = torch.randn(config.optim.batch_size, 4, generator=generator)
        loss = 0.0
        for part in x_BI.chunk(config.optim.accumulation):
            output = engine.loss(partial(share, x_BI=part, num_samples=len(x_BI)))
            engine.backward(output.total)
            loss += output.parts["retain/loss"].item()
        found.append((loss, engine.step(rate_factor=1.0 / (1 + step))))
    return found


@each_engine
@pytest.mark.parametrize(
    "optim",
    [{}, {"accumulation": 4}, {"max_grad_norm": 0.05}, {"projector_learning_rate": 0.1}],
    ids=["plain", "accumulated", "clipped", "projector-rate"],
)
def test_engine_steps_equal_plain_adamw(engine: dict[str, Any], optim: dict[str, Any]) -> None:
    config = train_config(engine, **optim)
    found = take_steps(start(config), config, 0, 5)

    module = Net()
    adamw = torch.optim.AdamW(
        [
            {"params": [module.body.weight, module.head.weight], "weight_decay": 0.1},
            {"params": [module.body.bias, module.head.bias], "weight_decay": 0.0},
            {"params": [module.projector.weight], "weight_decay": 0.1},
            {"params": [module.projector.bias], "weight_decay": 0.0},
        ],
        betas=config.optim.betas,
    )
    rates = [0.01, 0.01, *[config.optim.projector_learning_rate or 0.01] * 2]
    for step, (loss, norm) in enumerate(found):
        x_BI = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
        expected = share(module, x_BI, 8).total
        adamw.zero_grad()
        expected.backward()
        limit = config.optim.max_grad_norm or math.inf
        expected_norm = nn.utils.clip_grad_norm_(module.parameters(), limit)
        for group, rate in zip(adamw.param_groups, rates, strict=True):
            group["lr"] = rate / (1 + step)
        adamw.step()
        assert loss == pytest.approx(expected.item(), rel=1e-5)
        assert norm == pytest.approx(expected_norm.item(), rel=1e-5)


@each_engine
def test_engine_resumed_under_any_stage_goes_on_as_if_undisturbed(engine: dict[str, Any]) -> None:
    config = train_config(engine, accumulation=2)
    undisturbed = start(config)
    take_steps(undisturbed, config, 0, 3)
    saved = undisturbed.copy_state()
    rest = take_steps(undisturbed, config, 3, 6)
    resumed = start(config)
    resumed.load_state([saved])
    assert take_steps(resumed, config, 3, 6) == rest
    if engine["name"] == "deepspeed":
        other = {"name": "deepspeed", "stage": (engine["stage"] + 1) % 4}
        resumed = start(train_config(other, accumulation=2))
        resumed.load_state([saved])
        for one, expected in zip(take_steps(resumed, config, 3, 6), rest, strict=True):
            assert one == pytest.approx(expected, rel=1e-6)


@each_engine
def test_engine_state_dict_has_every_weight_under_its_own_name(engine: dict[str, Any]) -> None:
    config = train_config(engine)
    before = Net().state_dict()
    running = start(config)
    take_steps(running, config, 0, 2)
    state = running.state_dict()
    assert state is not None
    assert state.keys() == before.keys()
    changed = {name for name, value in state.items() if not torch.equal(value, before[name])}
    assert changed == {name for name in before if not name.startswith("frozen")}
    fresh = Net()
    fresh.load_state_dict(state)
    x_BI = torch.randn(8, 4, generator=torch.Generator().manual_seed(2))
    loss = take_steps(running, config, 2, 3)[0][0]
    assert share(fresh, x_BI, 8).total.item() == pytest.approx(loss, rel=1e-6)


@each_engine
def test_engine_at_rate_zero_keeps_the_weights(engine: dict[str, Any]) -> None:
    running = start(train_config(engine))
    before = running.state_dict()
    assert before is not None
    before = {name: value.clone() for name, value in before.items()}
    output = running.loss(partial(share, x_BI=torch.ones(8, 4), num_samples=8))
    running.backward(output.total)
    assert running.step(rate_factor=0.0) > 0
    after = running.state_dict()
    assert after is not None
    assert all(torch.equal(value, before[name]) for name, value in after.items())


@pytest.mark.timeout(400)  # compiles CPUAdam where `make env` has not
@pytest.mark.parametrize(
    "options",
    [
        {"stage": 2},
        {"stage": 2, "optimizer": "compiled"},
        {"stage": 3, "offload_parameters": True, "optimizer": "compiled"},
    ],
    ids=["torch", "cpu-adam", "cpu-adam-offloaded-parameters"],
)
def test_engine_with_an_offloaded_optimizer_steps_as_plain_adamw(
    options: dict[str, Any],
) -> None:
    branches: dict[str, Any] = {"accumulation": 2, "max_grad_norm": 0.5}
    plain = take_steps(
        start(plain_config := train_config({"name": "torch"}, **branches)), plain_config, 0, 6
    )
    config = train_config({"name": "deepspeed", "offload_optimizer": True, **options}, **branches)
    engine = start(config)
    found = take_steps(engine, config, 0, 3)
    resumed = start(config)
    resumed.load_state([engine.copy_state()])
    found += take_steps(resumed, config, 3, 6)
    for one, other in zip(found, plain, strict=True):
        assert one == pytest.approx(other, rel=1e-5)


def test_deepspeed_engine_in_float16_trains_or_says_that_this_cpu_cannot() -> None:
    from deepspeed.accelerator import get_accelerator

    tree = to_tree(train_config({"name": "deepspeed", "stage": 2}))
    config = build_config(TrainConfig, {**tree, "model": {"path": "unused", "dtype": "float16"}})
    if not get_accelerator().is_fp16_supported():
        with pytest.raises(
            ConfigError, match=r"model\.dtype: 'float16' cannot be trained on this cpu"
        ):
            build_engine(Net(), config, projector="projector", device=torch.device("cpu"))
        pytest.skip("this CPU has no float16 arithmetic; that it is refused was tested")
    engine = build_engine(Net().half(), config, projector="projector", device=torch.device("cpu"))
    x_BI = torch.ones(8, 4, dtype=torch.float16)
    losses = []
    for _ in range(20):
        output = engine.loss(partial(share, x_BI=x_BI, num_samples=8))
        engine.backward(output.total)
        engine.step(rate_factor=1.0)
        losses.append(output.total.item())
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"stage": 0, "offload_optimizer": True}, "offload_optimizer needs stage 1"),
        ({"stage": 2, "offload_parameters": True}, "offload_parameters needs stage 3"),
    ],
)
def test_engine_config_offload_that_its_stage_cannot_do_is_refused(
    options: dict[str, Any], key: str
) -> None:
    with pytest.raises(ConfigError, match=key):
        train_config({"name": "deepspeed", **options})


@pytest.mark.parametrize(
    ("gpu", "optimizer", "torch_adam"),
    [
        (False, "auto", True),
        (True, "auto", False),
        (True, "torch", True),
        (False, "compiled", False),
    ],
)
def test_deepspeed_config_takes_the_named_adamw_and_on_gpus_the_compiled_one(
    gpu: bool, optimizer: str, torch_adam: bool
) -> None:
    tree = to_tree(train_config({"name": "deepspeed", "stage": 3, "optimizer": optimizer}))
    config = build_config(TrainConfig, {**tree, "workers": {"gpu": gpu}})
    found = deepspeed_config(config, world_size=1)
    assert found["optimizer"]["params"]["torch_adam"] is torch_adam


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_deepspeed_engine_trains_and_resumes_in_bfloat16_with_float32_masters(stage: int) -> None:
    config = build_config(
        TrainConfig,
        {
            "model": {"path": "unused", "dtype": "bfloat16"},
            "data": {"retain": "unused.json"},
            "optim": {"learning_rate": 1e-5, "batch_size": 8, "steps": 5},
            "engine": {"name": "deepspeed", "stage": stage},
        },
    )
    x_BI = torch.randn(8, 4, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)

    def begin() -> Engine:
        module = Net().to(torch.bfloat16)
        return build_engine(module, config, projector="projector", device=torch.device("cpu"))

    def learn(engine: Engine, steps: int) -> list[float]:
        losses = []
        for _ in range(steps):
            output = engine.loss(partial(share, x_BI=x_BI, num_samples=8))
            engine.backward(output.total)
            engine.step(rate_factor=1.0)
            losses.append(output.total.item())
        return losses

    engine = begin()
    losses = learn(engine, 300)
    saved = engine.copy_state()
    losses += learn(engine, 100)
    # Steps of 1e-5 vanish in bfloat16 weights of size 0.3; only masters of float32 gather them.
    assert losses[-1] < losses[0]
    resumed = begin()
    resumed.load_state([saved])
    assert learn(resumed, 100) == losses[300:]


def test_parameter_groups_split_by_rate_and_decay() -> None:
    optim = OptimConfig(learning_rate=0.1, projector_learning_rate=0.2, weight_decay=0.3, steps=1)
    groups = parameter_groups(Net(), optim, projector="projector")
    found = {(g["lr"], g["weight_decay"]): sorted(p.ndim for p in g["params"]) for g in groups}
    assert found == {(0.2, 0.3): [2], (0.2, 0.0): [1], (0.1, 0.3): [2, 2], (0.1, 0.0): [1, 1]}


def test_parameter_groups_without_a_trained_parameter_are_refused() -> None:
    with pytest.raises(ValueError, match=r"model\.trainable"):
        parameter_groups(
            Net().requires_grad_(False), OptimConfig(learning_rate=1, steps=1), projector="p"
        )


def test_deepspeed_config_divides_the_batch_and_keeps_adam_plain_without_a_gpu() -> None:
    config = train_config({"name": "deepspeed", "stage": 3}, accumulation=2)
    found = deepspeed_config(config, world_size=2)
    assert found["train_batch_size"] == 8
    assert found["train_micro_batch_size_per_gpu"] == 2
    assert found["gradient_accumulation_steps"] == 2
    assert found["zero_optimization"]["stage3_gather_16bit_weights_on_model_save"] is True
    assert found["optimizer"]["params"]["torch_adam"] is True
    assert not found["bf16"]["enabled"]
    assert "offload_optimizer" not in found["zero_optimization"]


def test_build_operator_removes_the_lock_of_a_build_that_died(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch.utils.cpp_extension import _get_build_directory

    build_operator()
    built = Path(_get_build_directory("deepspeed_shm_comm", verbose=False))
    (built / "lock").touch()
    build_operator()  # would wait for ever
    assert not (built / "lock").exists()
    assert os.environ["DS_ACCELERATOR"] == "cpu"
