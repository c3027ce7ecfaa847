"""The same global batch gives the same losses, however it is shared out: workers, accumulation, ZeRO stage.

float32, no dropout, 20 optimizer steps. Real processes over gloo, DeepSpeed in each, no Ray.
"""

from pathlib import Path
from typing import Any

import pytest

from safemirage.config.train import TrainConfig
from safemirage.training.job import StepMetrics
from tests.tiny_run import make_tiny_run, tiny_train_config
from tests.training.group import run_group

STEPS = 20
METHODS: dict[str, dict[str, Any]] = {
    "npo": {"name": "npo", "beta": 0.5},
    "rmu": {"name": "rmu", "hook_layer": 1, "steering_coefficient": 2.0},
}
GRID = [(accumulation, stage) for accumulation in (1, 2, 4) for stage in (0, 1, 2, 3)]
SHARINGS = {1: GRID, 2: GRID, 4: [(1, 0), (2, 1), (4, 2), (1, 3)]}
"""(accumulation, stage) by the number of workers. Four processes on two cores take minutes, so not each with each."""
COMPARED = {"loss": 1e-5, "forget/loss": 1e-5, "retain/loss": 1e-5, "optim/gradient_norm": 3e-5}
"""What may differ, as a part of the trace's largest value: a loss or norm that falls keeps the rounding of the sums that it
is made of. Backward adds to the rounding of forward: on one processor norms of four workers differed by 1.02e-5."""


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """20 records, so that passes of 16 a step do not end where steps do; answers differ in length."""
    return make_tiny_run(tmp_path_factory.mktemp("tiny"), num_records=20)


def config(
    tree: dict[str, Any], method: str, *, accumulation: int = 1, **branches: Any
) -> TrainConfig:
    # Small steps: Adam makes full steps of gradients that are rounding alone, so a run that moves fast magnifies it.
    optim = {
        "learning_rate": 1.5e-6,
        "batch_size": 16,
        "steps": STEPS,
        "accumulation": accumulation,
    }
    return tiny_train_config(
        tree, method=METHODS[method], optim=optim, checkpoint={"every_steps": STEPS}, **branches
    )


def shared_out(
    tree: dict[str, Any], method: str, *, world: int, accumulation: int, stage: int
) -> TrainConfig:
    return config(
        tree,
        method,
        accumulation=accumulation,
        engine={"name": "deepspeed", "stage": stage},
        workers={"count": world},
    )


@pytest.fixture(scope="module")
def plain(
    tree: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, list[StepMetrics]]:
    """One process, the whole batch in one pass, PyTorch's AdamW."""
    configs = [config(tree, method) for method in METHODS]
    traces = run_group(configs, world=1, folder=tmp_path_factory.mktemp("plain"))
    return dict(zip(METHODS, traces, strict=True))


def assert_same_traces(found: list[StepMetrics], expected: list[StepMetrics]) -> None:
    assert len(found) == len(expected) == STEPS
    for name, share in COMPARED.items():
        trace = [step[name] for step in expected]
        allowed = share * max(map(abs, trace))
        assert [step[name] for step in found] == pytest.approx(trace, rel=0, abs=allowed)
        assert abs(trace[-1] - trace[0]) > 10 * allowed, "too little moved to compare"


@pytest.mark.timeout(900)
def test_invariance_two_workers_with_accumulation_under_zero2_give_the_losses_of_one(
    tree: dict[str, Any], plain: dict[str, list[StepMetrics]], tmp_path: Path
) -> None:
    configs = [shared_out(tree, method, world=2, accumulation=2, stage=2) for method in METHODS]
    for found, expected in zip(
        run_group(configs, world=2, folder=tmp_path), plain.values(), strict=True
    ):
        assert_same_traces(found, expected)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("world", [1, 2, 4])
def test_invariance_stages_and_accumulation_give_the_losses_of_one_plain_process(
    tree: dict[str, Any], plain: dict[str, list[StepMetrics]], tmp_path: Path, world: int
) -> None:
    cases = [(method, *sharing) for method in METHODS for sharing in SHARINGS[world]]
    configs = [
        shared_out(tree, method, world=world, accumulation=accumulation, stage=stage)
        for method, accumulation, stage in cases
    ]
    traces = run_group(configs, world=world, folder=tmp_path)
    for (method, *_), found in zip(cases, traces, strict=True):
        assert_same_traces(found, plain[method])
