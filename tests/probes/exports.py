"""Exports of the tiny LLaVA to probe, and evaluations of them."""

from pathlib import Path
from typing import Any

from safemirage.evaluation.types import ImageInput
from safemirage.storage import Storage
from safemirage.training.job import TrainJob
from safemirage.training.loop import train
from tests.evaluation.samples import sample_record, write_suite
from tests.tiny import tiny_image
from tests.tiny_run import tiny_train_config

LORA = {"rank": 2, "alpha": 8.0, "dropout": 0.0}


def train_export(tree: dict[str, Any], storage: Storage, name: str, **branches: Any) -> Path:
    """The export of a short run on `tree`'s model; with `model={"lora": LORA}` an adapter's."""
    config = tiny_train_config({**tree, "optim": {**tree["optim"], "steps": 4}}, **branches)
    export = storage.exports / name
    job = TrainJob(config=config, run_id=name, identity=name, export=export, cache=storage.cache)
    train(job, report=lambda report: None)
    return export


def tiny_suite(folder: Path, *, colours: tuple[str, ...] = ("white", "black")) -> Path:
    """Two unsafe and two safe questions about pictures in colours that no tiny run trains on."""
    samples = []
    for colour in colours:
        image = ImageInput(tiny_image(colour))
        samples.append(sample_record(f"u-{colour}", image=image))
        samples.append(
            sample_record(f"s-{colour}", image=image, condition="safe_plain", subset="safe")
        )
    return write_suite(folder, samples)


def evaluate_tree(export: Path, suite: Path, **model: Any) -> dict[str, Any]:
    """An evaluation of short greedy answers, as a probe's config holds it."""
    return {
        "name": "probed",
        "model": {"name": "transformers", "path": str(export), **model},
        "suite": str(suite),
        "judges": [{"name": "keywords"}],
        "decoding": {"max_new_tokens": 6},
    }
