"""Suites x checkpoints over a cluster: the same rows as in one process, and nothing asked twice."""

from pathlib import Path

import pytest

from ray_jobs.capacity import CapacityError
from ray_jobs.cluster import ClusterAddress
from ray_jobs.evaluate import Placement, load_configs, main, run
from safemirage.config.evaluate import EvaluateConfig
from safemirage.config.load import ConfigError
from safemirage.evaluation.many import Outcome
from safemirage.settings import read_settings
from tests.evaluation.samples import case_record, write_suite
from tests.tiny import make_tiny_llava

pytestmark = [pytest.mark.ray, pytest.mark.timeout(240)]

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
        str(write_suite(folder / name, [case_record(name + item) for item in "12"]))
        for name in "st"
    ]


def evaluated(configs: list[EvaluateConfig], placement: Placement | None) -> list[Outcome]:
    return run(
        configs,
        placement=placement,
        on_progress_of=lambda _: lambda done, total: None,
        settings=read_settings(),
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
    placement = Placement(cpus=0.5, gpus=0)
    spread = evaluated(configs, placement)
    assert [outcome.error for outcome in spread] == [""] * 4
    assert [outcome.calls.answers for outcome in spread] == [2] * 4
    again = evaluated(configs, placement)
    assert [outcome.calls.answers for outcome in again] == [0] * 4
    assert rows(again) == rows(spread)
    monkeypatch.setenv("SAFEMIRAGE_STORAGE", str(tmp_path / "local"))
    assert rows(evaluated(configs, None)) == rows(spread)


def test_question_that_an_engine_refuses_costs_itself_alone(
    ray_driver: ClusterAddress,
    models: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SAFEMIRAGE_STORAGE", str(tmp_path / "storage"))
    cases = [case_record("fine"), case_record("long", question="long " * 200)]
    suite = write_suite(tmp_path / "suite", cases)
    configs = load_configs(
        BASE, models[:1], [str(suite)], [*SMALL, "max_unscored=1.0"], read_settings()
    )
    (outcome,) = evaluated(configs, Placement(cpus=0.5, gpus=0))
    assert outcome.evaluation is not None, outcome.error
    assert (outcome.evaluation.state, outcome.evaluation.done) == ("finished", 2)
    assert {row["unscored"] for row in outcome.evaluation.rows or []} == {1}
    (strict,) = evaluated(
        load_configs(BASE, models[:1], [str(suite)], SMALL, read_settings()),
        Placement(cpus=0.5, gpus=0),
    )
    assert strict.error.startswith("TooManyUnscored")
    assert "a prompt of" in strict.error
    assert "Traceback" not in strict.error


def test_cluster_without_room_is_refused_with_the_numbers(
    ray_driver: ClusterAddress, models: list[str], suites: list[str]
) -> None:
    configs = load_configs(BASE, models, suites, SMALL, read_settings())
    with pytest.raises(CapacityError, match=r"CPU 1, GPU 1 each, and the cluster has 1 node"):
        evaluated(configs, Placement(cpus=1, gpus=1))


def test_models_of_one_folder_name_are_refused(models: list[str]) -> None:
    with pytest.raises(ConfigError, match="hold a folder name twice"):
        load_configs(BASE, [models[0], models[0]], [], [], read_settings())


def test_command_without_ray_prints_a_table_for_each_suite(
    models: list[str],
    suites: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("SAFEMIRAGE_STORAGE", str(tmp_path / "storage"))
    asked = [BASE, "--model", models[0], "--suite", suites[0], "--suite", suites[1], "--local"]
    assert main([*asked, *SMALL]) == 0
    printed = capsys.readouterr()
    assert "2 evaluations; 4 questions and 0 verdicts asked" in printed.out
    assert "a s: 2/2" in printed.err
    assert main([*asked, *SMALL]) == 0
    assert "2 evaluations; 0 questions" in capsys.readouterr().out
