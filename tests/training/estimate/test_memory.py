"""The memory estimate against what is really held, and against published figures."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from safemirage.config.loading.load import apply_overrides, build_config, dump_yaml, to_tree
from safemirage.config.train import TrainConfig
from safemirage.methods.method import LossOutput
from safemirage.models.loading import load_for_training
from safemirage.training.engine import build_engine
from safemirage.training.estimate.memory import (
    GIB,
    cheapest_fit,
    estimate_memory,
    memory_refusal,
    memory_report,
    shortest_sample,
)
from safemirage.training.estimate.shape import read_shape
from safemirage.training.zero import DeepSpeedEngine
from tests.tiny import IMAGE_TOKENS
from tests.tiny_run import make_tiny_run, tiny_train_config
from tests.training.estimate.empty_models import write_empty_llava

DECOUPLE = {"decouple": "decouple.json"}
LORA = {"rank": 4, "alpha": 8.0, "dropout": 0.0}
DOWN_PROJ = {"trainable": [r"layers\.[01]\.mlp\.down_proj"]}
RMU = {"name": "rmu", "hook_layer": 0}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return make_tiny_run(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def llava_7b(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """LLaVA-1.5-7B as published, its weights a hole in the file behind their header."""
    return write_empty_llava(tmp_path_factory.mktemp("7b"))


def large(tree: dict[str, Any], path: Path, **branches: Any) -> TrainConfig:
    model = {"path": str(path), "dtype": "bfloat16", **branches.pop("model", {})}
    return tiny_train_config(tree, model=model, **{"engine": zero(2), **branches})


def zero(stage: int, **options: Any) -> dict[str, Any]:
    return {"name": "deepspeed", "stage": stage, **options}


@pytest.mark.parametrize(
    "branches",
    [{}, {"model": {"lora": LORA}}, {"model": DOWN_PROJ}],
    ids=["full", "lora", "down-proj"],
)
def test_estimate_of_model_states_equals_what_the_plain_engine_holds(
    tree: dict[str, Any], branches: dict[str, Any]
) -> None:
    config = tiny_train_config(tree, **branches)
    loaded = load_for_training(config.model)
    shape = read_shape(config)
    parameters = list(loaded.model.parameters())
    trained = [p for p in parameters if p.requires_grad]
    assert shape.trained == sum(p.numel() for p in trained)
    assert shape.parameters == sum(p.numel() for p in parameters)
    engine = build_engine(
        loaded.model, config, projector=loaded.family.projector, device=torch.device("cpu")
    )
    engine.backward(sum_of_squares(trained).total)
    found = estimate_memory(config, shape, tokens=10)
    assert found.weights == sum(p.nbytes for p in parameters)
    assert found.gradients == sum(p.grad.nbytes for p in trained if p.grad is not None)
    engine.step(rate_factor=1.0)
    state = engine._optimizer.state.values()  # type: ignore[attr-defined]
    assert found.optimizer == sum(s["exp_avg"].nbytes + s["exp_avg_sq"].nbytes for s in state)


def sum_of_squares(trained: list[nn.Parameter]) -> LossOutput:
    return LossOutput(total=torch.stack([p.square().sum() for p in trained]).sum(), parts={})


@pytest.mark.timeout(180)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_estimate_of_the_optimizer_equals_what_deepspeed_holds(
    tree: dict[str, Any], dtype: str
) -> None:
    config = tiny_train_config(tree, model={"dtype": dtype}, engine=zero(2))
    loaded = load_for_training(config.model)
    engine = build_engine(
        loaded.model, config, projector=loaded.family.projector, device=torch.device("cpu")
    )
    assert isinstance(engine, DeepSpeedEngine)
    trained = [p for p in loaded.model.parameters() if p.requires_grad]
    output = engine.loss(lambda _: sum_of_squares(trained))
    engine.backward(output.total)
    engine.step(rate_factor=1.0)
    inner = engine._engine.optimizer.optimizer
    masters = [p for group in inner.param_groups for p in group["params"]]
    moments = [t for p in masters for t in inner.state[p].values() if t.numel() > 1]
    held = sum(t.nbytes for t in (*masters, *moments))
    estimated = estimate_memory(config, read_shape(config), tokens=10).optimizer
    assert estimated == pytest.approx(held, rel=1e-3)  # partitions are padded


def test_estimate_of_llava_7b_is_the_published_count(tree: dict[str, Any], llava_7b: Path) -> None:
    config = large(tree, llava_7b, engine=zero(0))
    shape = read_shape(config)
    assert shape.parameters == 7_063_427_072
    assert (shape.num_layers, shape.first_layer) == (32, 0)
    found = estimate_memory(config, shape, tokens=1)
    # 16 bytes a trained parameter, and 2 a frozen one (the vision tower).
    frozen = shape.parameters - shape.trained
    assert found.weights + found.gradients + found.optimizer == 16 * shape.trained + 2 * frozen


def test_estimate_divides_by_workers_what_the_stage_partitions(
    tree: dict[str, Any], llava_7b: Path
) -> None:
    def parts(stage: int, **options: Any) -> list[float]:
        config = large(
            tree,
            llava_7b,
            engine=zero(stage, **options),
            workers={"count": 8},
            optim={"batch_size": 8},
        )
        found = estimate_memory(config, shape, tokens=1)
        per_parameter = (found.weights, found.gradients, found.optimizer, found.on_host)
        return [round(part / shape.trained, 2) for part in per_parameter]

    shape = read_shape(large(tree, llava_7b))
    all_weights = 2 * shape.parameters / shape.trained
    assert parts(0) == [round(all_weights, 2), 2, 12, 0]
    assert parts(1) == [round(all_weights, 2), 2, 1.5, 0]
    assert parts(2) == [round(all_weights, 2), 0.25, 1.5, 0]
    assert parts(3) == [round(all_weights / 8, 2), 0.25, 1.5, 0]
    assert parts(2, offload_optimizer=True) == [round(all_weights, 2), 0, 0, 1.75]
    weights = round(all_weights / 8, 2)
    offloaded = parts(3, offload_optimizer=True, offload_parameters=True)
    assert offloaded == [0, 0, 0, pytest.approx(1.75 + weights, abs=0.01)]


def test_estimate_of_activations_counts_every_graph_that_is_alive_at_once(
    tree: dict[str, Any], llava_7b: Path
) -> None:
    shape = read_shape(large(tree, llava_7b))

    def activations(method: dict[str, Any], **branches: Any) -> int:
        config = large(tree, llava_7b, method=method, **branches)
        return estimate_memory(config, read_shape(config), tokens=700).activations

    sft: dict[str, Any] = {"name": "sft"}
    # 32 layers x 4 samples x 700 tokens x (5 x 4096 + 3 x 4096 + 4 x 11008) numbers of 2 bytes
    one = 32 * 4 * 700 * (8 * 4096 + 4 * 11008) * 2
    assert activations(sft) == one
    assert activations({"name": "npo"}) == 2 * one
    assert activations({"name": "npo", "decouple_weight": 1.0}, data=DECOUPLE) == 3 * one
    assert activations({"name": "dpo"}, data={"preferred_answers": "idk"}) == 3 * one
    assert activations({"name": "idk"}, data={"preferred_answers": "idk"}) == 2 * one
    # RMU's forget activations end at the hook layer, the eighth of 32.
    assert activations({"name": "rmu", "hook_layer": 7}) == one + one // 4
    assert activations({"name": "rmu", "hook_layer": 7, "retain_weight": 0.0}) == one // 2

    assert activations(sft, optim={"accumulation": 4}) * 4 == one
    assert activations(sft, model={"gradient_checkpointing": True}) < one / 8
    upper_half = {"trainable": [r"{language}\.layers\.(1[6-9]|2\d|3[01])\."]}
    assert activations(sft, model=upper_half) * 2 == one
    assert estimate_memory(large(tree, llava_7b), shape, tokens=576).logits == 0


def test_estimate_of_rmu_counts_the_copy_of_what_is_trained_up_to_the_hook(
    tree: dict[str, Any],
) -> None:
    config = tiny_train_config(tree, method=RMU, model=DOWN_PROJ)
    # Two layers are trained and one of them lies at or before the hook; 64 x 96 numbers each.
    assert estimate_memory(config, read_shape(config), tokens=1).reference == 64 * 96 * 4
    lora = tiny_train_config(tree, method=RMU, model={"lora": LORA})
    assert estimate_memory(lora, read_shape(lora), tokens=1).reference == 0


def test_memory_refusal_has_the_numbers_and_the_ways_out(
    tree: dict[str, Any], llava_7b: Path
) -> None:
    config = large(tree, llava_7b, engine=zero(2), workers={"count": 1, "gpu": True})
    shape = read_shape(config)
    assert shortest_sample(config, shape) == 576
    refused = memory_refusal(config, shape, gpu_bytes=80 * GIB)
    assert refused is not None
    assert "the smallest GPU has 80.0 GiB" in refused
    assert "weights 13.2 GiB, gradients 12.6 GiB, optimizer 75.5 GiB" in refused
    assert (
        "cheapest setting that fits: model.gradient_checkpointing=true engine.offload_optimizer=true"
        in refused
    )
    fits = large(
        tree,
        llava_7b,
        engine=zero(3),
        workers={"count": 8, "gpu": True},
        optim={"batch_size": 8},
    )
    assert memory_refusal(fits, shape, gpu_bytes=80 * GIB) is None


def test_shape_of_the_tiny_model(tree: dict[str, Any]) -> None:
    shape = read_shape(tiny_train_config(tree))
    assert shape.image_tokens == IMAGE_TOKENS
    assert (shape.hidden, shape.intermediate, shape.attention) == (64, 96, 3 * 64)


@pytest.mark.parametrize(
    ("gpu_gib", "verdict"),
    [
        (
            4,
            "no stage, offload or checkpointing fits the longest samples; ways out: workers.count",
        ),
        (
            24,
            "does not fit, this machine's smallest GPU has 24.0 GiB; the cheapest setting that fits: ",
        ),
        (80, "fits, this machine's smallest GPU has 80.0 GiB"),
        (None, "this machine has no GPU; the cheapest settings by its size"),
    ],
)
def test_report_of_an_estimate_says_whether_it_fits_or_what_would(
    tree: dict[str, Any], llava_7b: Path, gpu_gib: int | None, verdict: str
) -> None:
    workers = {"count": 8, "gpu": True}
    config = large(tree, llava_7b, engine=zero(2), workers=workers, optim={"batch_size": 16})
    gpu_bytes = None if gpu_gib is None else gpu_gib * GIB
    text = "\n".join(memory_report(config, read_shape(config), gpu_bytes=gpu_bytes))
    assert verdict in text
    proposed = cheapest_fit(config, read_shape(config), gpu_bytes=24 * GIB)
    assert proposed is not None
    fits = apply(config, proposed)
    assert estimate_memory(fits, read_shape(fits), tokens=2048).fits(24 * GIB)


def apply(config: TrainConfig, overrides: list[str]) -> TrainConfig:
    return build_config(TrainConfig, apply_overrides(to_tree(config), overrides))


def test_estimate_needs_no_torch(tree: dict[str, Any], llava_7b: Path, tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(dump_yaml(large(tree, llava_7b)))
    code = (
        "import sys; from safemirage.cli import main; import atexit; "
        "atexit.register(lambda: print('torch' in sys.modules)); main(sys.argv[1:])"
    )
    command = [sys.executable, "-c", code, "train", str(file), "--estimate"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "7,063,427,072 parameters" in done.stdout
    assert done.stdout.endswith("False\n")
