"""The memory estimate against what is really held, and against published figures."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig

from safemirage.config.train import TrainConfig
from safemirage.methods.method import LossOutput
from safemirage.models.loading import load_for_training
from safemirage.training.engine import build_engine
from safemirage.training.estimate.memory import (
    GIB,
    MemoryEstimate,
    estimate_memory,
    memory_refusal,
    memory_verdict,
    shortest_sample,
)
from safemirage.training.estimate.shape import read_shape
from safemirage.training.zero import DeepSpeedEngine
from tests.tiny import IMAGE_TOKENS
from tests.tiny_run import make_tiny_run, tiny_train_config

LORA = {"rank": 4, "alpha": 8.0, "dropout": 0.0}
DOWN_PROJ = {"trainable": [r"layers\.[01]\.mlp\.down_proj"]}
RMU = {"name": "rmu", "hook_layer": 0}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return make_tiny_run(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def llava_7b(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The config of LLaVA-1.5-7B, as published, and nothing else."""
    folder = tmp_path_factory.mktemp("7b")
    text = LlamaConfig(
        vocab_size=32064,
        hidden_size=4096,
        intermediate_size=11008,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=32,
    )
    vision = CLIPVisionConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        image_size=336,
        patch_size=14,
        projection_dim=768,
    )
    LlavaConfig(text_config=text, vision_config=vision, image_seq_length=576).save_pretrained(
        folder
    )
    return folder


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
    assert shape.layers == 32
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


def test_estimate_of_activations_falls_with_checkpointing_accumulation_and_frozen_layers(
    tree: dict[str, Any], llava_7b: Path
) -> None:
    def activations(**branches: Any) -> int:
        config = large(tree, llava_7b, **branches)
        return estimate_memory(config, read_shape(config), tokens=700).activations

    whole = activations()
    assert activations(optim={"accumulation": 4}) * 4 == whole
    assert activations(model={"gradient_checkpointing": True}) < whole / 8
    upper_half = activations(model={"trainable": [r"{language}\.layers\.(1[6-9]|2\d|3[01])\."]})
    assert upper_half * 2 == whole
    # 32 layers x 4 samples x 700 tokens x (5 x 4096 + 3 x 4096 + 4 x 11008) numbers of 2 bytes
    assert whole == 32 * 4 * 700 * (8 * 4096 + 4 * 11008) * 2


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
    assert "a GPU has 80.0 GiB" in refused
    assert "weights 13.2 GiB, gradients 12.6 GiB, optimizer 75.5 GiB" in refused
    assert "engine.stage=3" in refused
    assert "engine.offload_optimizer=true" in refused
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
        (16, "does not fit, this machine's smallest GPU has 16.0 GiB"),
        (30, "fits with short samples alone, this machine's smallest GPU has 30.0 GiB"),
        (80, "fits, this machine's smallest GPU has 80.0 GiB"),
        (None, "this machine has no GPU; one of 48 GiB could hold the longest samples"),
    ],
)
def test_verdict_of_an_estimate(gpu_gib: int | None, verdict: str) -> None:
    def holding(gib: int) -> MemoryEstimate:
        return MemoryEstimate(
            weights=gib * GIB,
            gradients=0,
            optimizer=0,
            reference=0,
            activations=0,
            tokens=1,
            on_host=0,
        )

    gpu_bytes = None if gpu_gib is None else gpu_gib * GIB
    assert memory_verdict(holding(20), holding(40), gpu_bytes=gpu_bytes).startswith(
        f"verdict: {verdict}"
    )
