"""A training run on the tiny LLaVA: model, images and LLaVA files in a folder, and the config tree that names them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from safemirage.config.loading.load import build_config
from safemirage.config.train import TrainConfig
from safemirage.data.llava import to_llava
from safemirage.methods.forward import inference
from safemirage.training.job import Report, StepMetrics, TrainJob
from safemirage.training.loop import train
from tests.tiny import make_tiny_llava, tiny_image

T = TypeVar("T")
COLOURS = ("red", "green", "blue", "yellow", "purple", "cyan")


def make_tiny_run(folder: Path, *, num_records: int = 6, num_layers: int = 2) -> dict[str, Any]:
    """Writes everything below `folder`; answers differ in length, one retain record has no image."""
    folder.mkdir(parents=True, exist_ok=True)
    images = folder / "images"
    images.mkdir()
    for colour in COLOURS:
        (images / f"{colour}.png").write_bytes(tiny_image(colour))
    colours = [COLOURS[index % len(COLOURS)] for index in range(num_records)]
    forget = [
        to_llava(f"f{i}", f"{c}.png", [(f"Share it {i}", f"a {c} knife" + " very" * i)])
        for i, c in enumerate(colours)
    ]
    retain = [
        to_llava(
            f"r{i}", f"{c}.png" if i else None, [(f"What is {i}", f"{c} cup" + " so" * (i % 3))]
        )
        for i, c in enumerate(colours)
    ]
    decouple = [
        to_llava(f"d{i}", f"{c}.png", [(f"Share it {i}", f"a {c} cup")])
        for i, c in enumerate(colours)
    ]
    (folder / "decouple.json").write_text(json.dumps(decouple))
    (folder / "forget.json").write_text(json.dumps(forget))
    (folder / "retain.json").write_text(json.dumps(retain))
    make_tiny_llava(folder / "model", seed=0, num_layers=num_layers)
    return {
        "name": "tiny",
        "model": {"path": str(folder / "model")},
        "data": {
            "retain": str(folder / "retain.json"),
            "forget": str(folder / "forget.json"),
            "image_folder": str(images),
        },
        "method": {"name": "npo", "beta": 0.5},
        "optim": {"learning_rate": 1e-3, "batch_size": 4, "steps": 6, "warmup_ratio": 0.2},
        "engine": {"name": "torch"},
        "checkpoint": {"every_steps": 2},
    }


def tiny_train_config(tree: dict[str, Any], **branches: Any) -> TrainConfig:
    """The config of a tree; mappings given by name are merged into its branches, other values replace them."""
    merged = {
        key: {**tree[key], **value} if isinstance(value, dict) and key in tree else value
        for key, value in branches.items()
    }
    for key in ("method", "engine"):
        if key in branches:
            merged[key] = branches[key]
    return build_config(TrainConfig, {**tree, **merged})


def train_tiny(
    tree: dict[str, Any], folder: Path, *, checkpoints: Path | None = None, **branches: Any
) -> list[StepMetrics]:
    """Trains in this process, without Ray; what each step measured."""
    steps: list[StepMetrics] = []

    def report(report: Report) -> None:
        steps.extend(report.steps)

    job = TrainJob(
        config=tiny_train_config(tree, **branches),
        run_id="tiny",
        identity="0",
        export=folder / "export",
        cache=folder / "cache",
        checkpoints=checkpoints,
        snapshots=folder / "snapshots",
    )
    train(job, report=report)
    return steps


def inferring(model: nn.Module) -> Callable[[Callable[[nn.Module], T]], T]:
    """What an engine's `infer` does, without an engine."""

    def infer(compute: Callable[[nn.Module], T]) -> T:
        with inference(model):
            return compute(model)

    return infer
