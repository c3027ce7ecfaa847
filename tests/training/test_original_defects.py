"""Defects of the original's training that must not come back. D12 is in tests/methods/test_npo.py."""

import ast
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import safemirage
from safemirage.config.loading.load import ConfigError
from safemirage.training.samples.order import GlobalOrder
from tests.tiny_run import make_tiny_run, tiny_train_config
from tests.training.test_loop import RMU, losses, run


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return make_tiny_run(tmp_path_factory.mktemp("tiny"))


def test_d11_rmu_trains_in_every_epoch(tree: dict[str, Any], tmp_path: Path) -> None:
    """The original's retain iterator is spent after one epoch, and every later step is a no-op."""
    # Six retain records in batches of four: nine steps are six epochs.
    config = tiny_train_config(
        tree, method={**RMU, "alpha": 1.0}, optim={"steps": 9, "schedule": "constant"}
    )
    steps = run(config, tmp_path).steps
    assert all(step["optim/gradient_norm"] > 0 for step in steps)
    assert all(step["forget/loss"] > 0 for step in steps)
    epochs = [sum(step["forget/loss"] for step in steps[start : start + 3]) for start in (0, 3, 6)]
    assert epochs == sorted(epochs, reverse=True)


def test_d11_orders_of_unequal_sets_never_end_and_keep_whole_passes() -> None:
    retain = GlobalOrder(num_samples=7, batch_size=4, seed=0, stream="retain")
    forget = GlobalOrder(num_samples=3, batch_size=4, seed=0, stream="forget")
    for order in (retain, forget):
        drawn = [index for step in range(84) for index in order.step_indices(step)]
        # The original also drops the tail of each retain pass when the shorter forget set ends.
        assert {drawn.count(index) for index in range(order.num_samples)} == {
            84 * 4 // order.num_samples
        }


def test_d13_checkpoints_are_written_and_a_run_goes_on_from_each(
    tree: dict[str, Any], tmp_path: Path
) -> None:
    config = tiny_train_config(tree, method=RMU)
    whole = run(config, tmp_path / "whole")
    assert len(whole.checkpoints) == 2
    for index, checkpoint in enumerate(whole.checkpoints):
        resumed = run(config, tmp_path / f"{index}", checkpoints=checkpoint)
        assert resumed.summary.resumed_from == 2 * (index + 1)
        # The same losses also mean the same samples: the place in both orders is part of the checkpoint's step.
        assert losses(resumed) == losses(whole)
        first, second = (
            load_file(r.folder / "export" / "model.safetensors") for r in (whole, resumed)
        )
        assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_d14_control_vector_comes_from_the_seed_and_is_saved(
    tree: dict[str, Any], tmp_path: Path
) -> None:
    def saved(name: str, **branches: Any) -> torch.Tensor:
        config = tiny_train_config(tree, method=RMU, **branches)
        (checkpoint, _) = run(config, tmp_path / name).checkpoints
        state = torch.load(next(checkpoint.glob("*/worker-00000.pt")), weights_only=True)
        vector: torch.Tensor = state["run"]["method"]["control_vector"]
        return vector

    first = saved("first")
    assert torch.equal(first, saved("again", optim={"accumulation": 2}))
    assert not torch.equal(first, saved("other", seed=1))


def test_d14_layers_are_numbers_and_no_text_is_evaluated(tree: dict[str, Any]) -> None:
    """The original reads layer and parameter numbers with eval."""
    with pytest.raises(ConfigError, match=r"method\.hook_layer"):
        tiny_train_config(tree, method={**RMU, "hook_layer": "5,6,7"})
    root = Path(safemirage.__file__).parent
    for path in root.rglob("*.py"):
        calls = [
            node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)
        ]
        names = {call.func.id for call in calls if isinstance(call.func, ast.Name)}
        assert not names & {"eval", "exec"}, path
