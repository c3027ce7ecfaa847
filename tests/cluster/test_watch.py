"""Safety evaluation beside a training run: every snapshot measured, logged at its step, and the run's result."""

import json
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient

from ray_jobs.train import run_training
from safemirage.config.loading.load import ConfigError
from safemirage.config.train import TrainConfig
from safemirage.runs import TrainResult, read_record
from safemirage.settings import Settings
from safemirage.tracking import RUN_TAG
from tests.evaluation.samples import sample_record, write_suite
from tests.tiny_run import make_tiny_run, tiny_train_config

pytestmark = [pytest.mark.timeout(300), pytest.mark.usefixtures("ray_driver")]


def watched(folder: Path, **evaluation: Any) -> TrainConfig:
    suite = write_suite(folder / "suite", [sample_record(item) for item in "12"])
    settings = {
        "model": {"name": "transformers", "path": "snapshot"},
        "suite": str(suite),
        "judges": [{"name": "refusal_rules"}],
        "decoding": {"max_new_tokens": 4},
        **evaluation,
    }
    watch = {"every_steps": 3, "cpus": 0.5, "evaluation": settings}
    tree = {**make_tiny_run(folder / "tiny"), "workers": {"count": 1, "cpus": 0.5}}
    return tiny_train_config(tree, watch=watch)


@pytest.mark.slow
def test_snapshots_and_export_are_evaluated_while_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SAFEMIRAGE_STORE_URL", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    settings = Settings.at(tmp_path / "storage")
    record = run_training(watched(tmp_path), settings=settings)
    result = read_record(TrainResult, record.result, of=record.id)
    assert [entry.step for entry in result.watch] == [0, 3, 6]
    assert [entry.error for entry in result.watch] == [""] * 3
    assert all(
        row.model.endswith(f"-step{entry.step}")
        for entry in result.watch
        for row in entry.rows or ()
    )
    client = MlflowClient(settings.tracking_uri)
    experiment = client.get_experiment_by_name("safemirage")
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id], f"tags.`{RUN_TAG}` = '{record.id}'")[0]
    name = next(name for name in found.data.metrics if name.startswith("watch/"))
    history = client.get_metric_history(found.info.run_id, name)
    assert [metric.step for metric in history] == [0, 3, 6]
    folder = settings.storage.runs / record.id
    assert not list((folder / "snapshots").iterdir())
    lines = (folder / "watch.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [0, 3, 6]
    assert Path(result.export).is_dir()


def test_suite_that_cannot_be_read_stops_the_run_before_it_starts(tmp_path: Path) -> None:
    config = watched(tmp_path, suite=str(tmp_path / "nothing"))
    with pytest.raises(ConfigError, match=r"watch\.evaluation: .*cannot be read"):
        run_training(config, settings=Settings.at(tmp_path / "storage"))
    assert not (tmp_path / "storage" / "exports").exists()


def test_watch_needs_the_snapshot_for_its_model(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="path: snapshot"):
        watched(tmp_path, model={"name": "transformers", "path": "elsewhere"})
