"""Suites x checkpoints over a cluster: the same rows as in one process, and nothing asked twice."""

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import ray
import torch

from ray_jobs.cluster.capacity import CapacityError
from ray_jobs.cluster.head import ClusterAddress
from ray_jobs.evaluate import run as run_on_ray
from ray_jobs.worker.engines import Engine
from safemirage.config.evaluate import EvaluateConfig
from safemirage.config.generators import DecodingConfig, TransformersConfig
from safemirage.evaluation.run.matrix import Outcome, load_configs, run_here
from safemirage.evaluation.types import Generation, Request
from safemirage.progress import OnProgress
from safemirage.settings import read_settings
from tests.evaluation.samples import sample_record, write_suite
from tests.tiny import make_tiny_llava

# Engines unpickle a class of this module, which they cannot import.
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])

pytestmark = pytest.mark.timeout(240)

BASE = "configs/evaluate/transformers.yaml"
SMALL = ["decoding.max_new_tokens=4"]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("models")
    return [str(make_tiny_llava(folder / name, seed)) for seed, name in enumerate("ab")]


@pytest.fixture(scope="module")
def suites(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("suites")
    return [
        str(write_suite(folder / name, [sample_record(name + item) for item in "12"]))
        for name in "st"
    ]


def silent(_: EvaluateConfig) -> OnProgress:
    return lambda done, total: None


def evaluated(
    configs: list[EvaluateConfig], *, cpus: float = 0.5, gpus: float = 0
) -> list[Outcome]:
    return run_on_ray(
        configs, cpus=cpus, gpus=gpus, on_progress_of=silent, settings=read_settings()
    )


def rows(outcomes: list[Outcome]) -> list[object]:
    return [outcome.evaluation and outcome.evaluation.rows for outcome in outcomes]


@pytest.mark.slow
def test_cluster_and_one_process_give_the_same_rows(
    ray_driver: ClusterAddress,
    models: list[str],
    suites: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    configs = load_configs(BASE, models, suites, SMALL, read_settings())
    assert [config.name for config in configs] == ["a", "a", "b", "b"]
    monkeypatch.setenv("SAFEMIRAGE_STORAGE", str(tmp_path / "cluster"))
    spread = evaluated(configs)
    assert [outcome.error for outcome in spread] == [""] * 4
    assert [outcome.calls.answers for outcome in spread] == [2] * 4
    again = evaluated(configs)
    assert [outcome.calls.answers for outcome in again] == [0] * 4
    assert rows(again) == rows(spread)
    monkeypatch.setenv("SAFEMIRAGE_STORAGE", str(tmp_path / "local"))
    assert rows(run_here(configs, on_progress_of=silent, settings=read_settings())) == rows(spread)


def test_question_that_an_engine_refuses_costs_itself_alone(
    ray_driver: ClusterAddress,
    models: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SAFEMIRAGE_STORAGE", str(tmp_path / "storage"))
    samples = [sample_record("fine"), sample_record("long", question="long " * 200)]
    suite = write_suite(tmp_path / "suite", samples)
    configs = load_configs(
        BASE, models[:1], [str(suite)], [*SMALL, "max_unscored=1.0"], read_settings()
    )
    (outcome,) = evaluated(configs)
    assert outcome.evaluation is not None, outcome.error
    assert (outcome.evaluation.state, outcome.evaluation.done) == ("finished", 2)
    assert {row.unscored for row in outcome.evaluation.rows or []} == {1}
    (strict,) = evaluated(
        load_configs(BASE, models[:1], [str(suite)], SMALL, read_settings()),
    )
    assert strict.error.startswith("TooManyUnscored")
    assert "a prompt of" in strict.error
    assert "Traceback" not in strict.error


class Mortal(Engine):
    """An engine whose process is killed, or whose device is full, where the model's name says so."""

    async def open(self) -> dict[str, str]:
        assert isinstance(self._config, TransformersConfig)
        name = Path(self._config.path).name
        if name == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if name == "full":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return await super().open()

    async def generate(
        self, requests: Sequence[Request], decoding: DecodingConfig
    ) -> list[Generation]:
        assert isinstance(self._config, TransformersConfig)
        marker = Path(self._config.path).with_name("was-killed")
        if not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return await super().generate(requests, decoding)


def test_engine_that_is_lost_starts_again_and_ends_no_other_models_evaluation(
    ray_driver: ClusterAddress,
    suites: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SAFEMIRAGE_STORAGE", str(tmp_path / "storage"))
    monkeypatch.setattr("ray_jobs.worker.engines.Engine", Mortal)
    models = [str(make_tiny_llava(tmp_path / name, 0)) for name in ("killed", "full", "once")]
    killed, full, finished = evaluated(
        load_configs(BASE, models, suites[:1], SMALL, read_settings()),
    )
    assert killed.error.startswith("GeneratorUnavailable: the engine's process was lost 3 times")
    assert full.error.startswith("GenerationError: OutOfMemoryError: CUDA out of memory")
    assert finished.error == ""
    assert finished.evaluation is not None
    assert (finished.evaluation.state, finished.evaluation.done) == ("finished", 2)
    assert (tmp_path / "was-killed").exists()


def test_cluster_without_room_is_refused_with_the_numbers(
    ray_driver: ClusterAddress, models: list[str], suites: list[str]
) -> None:
    configs = load_configs(BASE, models, suites, SMALL, read_settings())
    with pytest.raises(CapacityError, match=r"CPU 1, GPU 1 each, and the cluster has 1 node"):
        evaluated(configs, cpus=1, gpus=1)
