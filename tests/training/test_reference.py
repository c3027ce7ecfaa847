"""The reference log-probabilities: cached, from the model with its adapter off, and from a second copy of the model."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from safemirage.config.train import TrainConfig
from safemirage.methods.forward import supervised_logps
from safemirage.models.loading import LoadedModel, load_for_inference, load_for_training
from safemirage.training.job import TrainJob
from safemirage.training.loop import train
from safemirage.training.reference import ReferencePass, reference_logps
from safemirage.training.samples.sets import TrainingSets, read_sets
from tests.tiny_run import inferring, make_tiny_run, tiny_train_config

LORA = {"rank": 4, "alpha": 8.0, "dropout": 0.3}
MODELS: dict[str, dict[str, Any]] = {
    "full": {"trainable": [r"{language}"]},
    "full+projector": {},
    "lora": {"lora": {**LORA, "train_projector": False}},
    "lora+projector": {"lora": LORA},
}
RETAIN_TERM = {"name": "npo", "beta": 0.5, "retain_term": "preference"}


@dataclass(frozen=True)
class World:
    config: TrainConfig
    loaded: LoadedModel
    sets: TrainingSets


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return make_tiny_run(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def build(tree: dict[str, Any]) -> Callable[[str], World]:
    def make(trained: str) -> World:
        config = tiny_train_config(tree, model=MODELS[trained], method=RETAIN_TERM)
        loaded = load_for_training(config.model)
        return World(config, loaded, read_sets(config, loaded))

    return make


def reference_pass(folder: Path, *, batch_size: int = 4, weights: str = "w") -> ReferencePass:
    return ReferencePass(
        cache=folder,
        device=torch.device("cpu"),
        batch_size=batch_size,
        model_key={"weights": weights},
    )


def nudge(model: Any) -> None:
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.05 * torch.randn(parameter.shape, generator=generator)


@torch.no_grad()
def logps_now(model: Any, world: World, name: str) -> Tensor:
    """Each sample alone, in file order: the plain way."""
    samples = world.sets.by_name[name]
    model.eval()
    return torch.cat(
        [
            supervised_logps(model, samples.batch([i], global_indices=[i]))
            for i in range(len(samples))
        ]
    )


@pytest.mark.parametrize("name", ["forget", "retain"])
@pytest.mark.parametrize("trained", MODELS)
def test_cached_adapter_off_and_second_copy_references_agree(
    build: Callable[[str], World], tmp_path: Path, trained: str, name: str
) -> None:
    world = build(trained)
    model = world.loaded.model
    how = reference_pass(tmp_path)
    reference_logps(inferring(model), world.sets.by_name[name], how)
    nudge(model)
    # Computed from the initial weights, read after they have moved.
    cached = reference_logps(inferring(model), world.sets.by_name[name], how)
    second_copy = load_for_inference(world.config.model.path).model
    torch.testing.assert_close(cached, logps_now(second_copy, world, name), rtol=1e-5, atol=1e-4)
    assert (cached - logps_now(model, world, name)).abs().max() > 0.1
    if trained.startswith("lora"):
        with model.disable_adapter():
            adapter_off = logps_now(model, world, name)
        torch.testing.assert_close(cached, adapter_off, rtol=1e-5, atol=1e-4)


def test_reference_does_not_depend_on_how_the_set_is_cut(
    build: Callable[[str], World], tmp_path: Path
) -> None:
    world = build("full")
    samples = world.sets.by_name["forget"]
    alone = reference_logps(
        inferring(world.loaded.model), samples, reference_pass(tmp_path / "1", batch_size=1)
    )
    together = reference_logps(
        inferring(world.loaded.model), samples, reference_pass(tmp_path / "8", batch_size=8)
    )
    torch.testing.assert_close(alone, together, rtol=1e-5, atol=1e-4)


def test_reference_batches_hold_samples_of_like_length(
    build: Callable[[str], World], tmp_path: Path
) -> None:
    world = build("full")
    widths: list[tuple[int, int]] = []

    def note(_module: Any, _args: Any, kwargs: dict[str, Any]) -> None:
        mask = kwargs["attention_mask"]
        widths.append((mask.shape[1], int(mask.sum(dim=1).min())))

    world.loaded.model.register_forward_pre_hook(note, with_kwargs=True)
    samples = world.sets.by_name["forget"]
    reference_logps(inferring(world.loaded.model), samples, reference_pass(tmp_path, batch_size=2))
    lengths = sorted(len(sample.ids) for sample in samples.samples)
    assert sorted(widths) == [(lengths[i + 1], lengths[i]) for i in range(0, len(lengths), 2)]


def test_reference_of_other_weights_has_a_place_of_its_own(
    build: Callable[[str], World], tmp_path: Path
) -> None:
    samples = build("full").sets.by_name["forget"]
    places = {reference_pass(tmp_path, weights=weights).path(samples) for weights in "ab"}
    assert len(places) == 2


def test_reference_leaves_the_model_in_training(
    build: Callable[[str], World], tmp_path: Path
) -> None:
    world = build("lora")
    reference_logps(
        inferring(world.loaded.model), world.sets.by_name["forget"], reference_pass(tmp_path)
    )
    assert world.loaded.model.training


def test_trials_of_a_search_share_the_references_of_both_sets(
    tree: dict[str, Any], tmp_path: Path
) -> None:
    def run(number: int, **method: Any) -> None:
        config = tiny_train_config(
            tree, method={**RETAIN_TERM, **method}, optim={"steps": 1}, seed=number
        )
        job = TrainJob(
            config=config,
            run_id=f"trial-{number}",
            identity=str(number),
            export=tmp_path / str(number),
            cache=tmp_path / "cache",
        )
        train(job, report=lambda _: None)

    run(0)
    places = tmp_path / "cache" / "reference"
    first = {path: path.stat().st_mtime_ns for path in places.iterdir()}
    assert len(first) == 2  # forget and retain
    run(1, beta=0.9, retain_term="original")
    assert {path: path.stat().st_mtime_ns for path in places.iterdir()} == first
