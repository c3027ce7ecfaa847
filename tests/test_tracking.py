import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient
from tensorboardX.proto.event_pb2 import Event

from safemirage.settings import Settings
from safemirage.tracking import (
    CONFIG_FILE,
    PARENT_TAG,
    RUN_TAG,
    SEARCHES_TAG,
    flatten,
    open_tracker,
)

CONFIG = {"method": {"name": "npo", "beta": 0.1}, "seed": 0, "model": {"trainable": ["a", "b"]}}


@pytest.fixture(autouse=True)
def no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with MLflow's tables and no run: making them takes seconds."""
    folder = tmp_path_factory.mktemp("mlflow")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        open_tracker(Settings.at(folder), "other")
    return folder / "mlflow.db"


@pytest.fixture
def settings(tmp_path: Path, tables: Path) -> Settings:
    shutil.copy(tables, tmp_path / "mlflow.db")
    return Settings.at(tmp_path)


def runs(settings: Settings) -> list[Any]:
    client = MlflowClient(settings.tracking_uri)
    experiment = client.get_experiment_by_name("safemirage")
    return list(client.search_runs([experiment.experiment_id]))


def test_tracker_start_records_config_name_and_tag(settings: Settings) -> None:
    open_tracker(settings, "safemirage").start("npo-12ab", name="npo", config=CONFIG)
    (run,) = runs(settings)
    assert run.info.run_name == "npo"
    assert run.data.tags[RUN_TAG] == "npo-12ab"
    assert run.data.params["method.beta"] == "0.1"
    assert run.info.artifact_uri.startswith(settings.storage.root.as_uri())
    (written,) = settings.storage.root.rglob(CONFIG_FILE)
    assert "beta: 0.1" in written.read_text()


def test_tracker_started_again_goes_on_with_the_same_run(settings: Settings) -> None:
    first = open_tracker(settings, "safemirage")
    first.start("a", name="a", config=CONFIG)
    first.log_steps("a", [{"step": 1, "loss": 3.0}, {"step": 2, "loss": 2.0}])
    first.finish("a", failed=True)
    second = open_tracker(settings, "safemirage")
    second.start("a", name="a", config=CONFIG)
    assert second.last_step("a") == 2
    second.log_steps("a", [{"step": 3, "loss": 1.0}])
    second.finish("a")
    (run,) = runs(settings)
    assert run.info.status == "FINISHED"
    history = MlflowClient(settings.tracking_uri).get_metric_history(run.info.run_id, "loss")
    curve = [(1, 3.0), (2, 2.0), (3, 1.0)]
    assert [(metric.step, metric.value) for metric in history] == curve
    assert board_of(settings, "a") == [("loss", *point) for point in curve]


def board_of(settings: Settings, run_id: str) -> list[tuple[str, int, float]]:
    """The scalars that TensorBoard would show of a run, by step. Its files are records of a length, a checksum, an event,
    another checksum."""
    found = []
    for file in (settings.storage.root / "tensorboard" / run_id).iterdir():
        data = file.read_bytes()
        while data:
            end = 12 + int.from_bytes(data[:8], "little")
            event = Event.FromString(data[12:end])
            found += [(one.tag, event.step, one.simple_value) for one in event.summary.value]
            data = data[end + 4 :]
    return sorted(found, key=lambda item: item[1])


def test_tracker_child_names_its_parent_whichever_comes_first(settings: Settings) -> None:
    tracker = open_tracker(settings, "safemirage")
    tracker.start("child", name="child", config=CONFIG, parent_id="search")
    tracker.start("search", name="search", config={})
    by_id = {run.data.tags[RUN_TAG]: run for run in runs(settings)}
    assert by_id.keys() == {"child", "search"}
    assert by_id["child"].data.tags[PARENT_TAG] == by_id["search"].info.run_id


def test_tracker_many_metrics_and_not_a_number_are_taken(settings: Settings) -> None:
    tracker = open_tracker(settings, "safemirage")
    tracker.start("a", name="a", config={})
    steps = [{"step": i, "loss": 1.0, "optim/gradient_norm": float("nan")} for i in range(1, 1200)]
    tracker.log_steps("a", steps)
    assert tracker.last_step("a") == 1199


def test_tracker_tags_can_change(settings: Settings) -> None:
    tracker = open_tracker(settings, "safemirage")
    tracker.start("a", name="a", config={})
    tracker.set_tags("a", {"checkpoint_uri": "one"})
    tracker.set_tags("a", {"checkpoint_uri": "two"})
    assert runs(settings)[0].data.tags["checkpoint_uri"] == "two"


def test_tracker_shows_a_run_of_before_below_a_new_parent(settings: Settings) -> None:
    tracker = open_tracker(settings, "safemirage")
    tracker.start("first", name="betas", config={})
    tracker.start("trained", name="npo", config={}, parent_id="first")
    tracker.start("second", name="betas", config={})
    tracker.nest("trained", parent_id="first", name="method.beta=0.1")
    tracker.nest("trained", parent_id="second", name="method.beta=0.1")
    by_id = {run.data.tags[RUN_TAG]: run for run in runs(settings)}
    trained = by_id["trained"]
    assert trained.data.tags["mlflow.parentRunId"] == by_id["second"].info.run_id
    assert trained.data.tags[SEARCHES_TAG] == "first second"
    assert trained.info.run_name == "method.beta=0.1"


def test_tracker_table_is_replaced_by_a_newer_one(settings: Settings) -> None:
    tracker = open_tracker(settings, "safemirage")
    tracker.start("a", name="a", config={})
    tracker.log_table("a", "trials.json", [{"trial": 0, "asr": 0.5}])
    tracker.log_table("a", "trials.json", [{"trial": 0, "asr": 0.5}, {"trial": 1, "error": "no"}])
    client, (run,) = MlflowClient(settings.tracking_uri), runs(settings)
    file = client.download_artifacts(run.info.run_id, "trials.json")
    assert json.loads(Path(file).read_text()) == {
        "columns": ["trial", "asr", "error"],
        "data": [[0, 0.5, None], [1, None, "no"]],
    }


def test_tracker_unknown_run_is_an_error(settings: Settings) -> None:
    with pytest.raises(KeyError, match="start"):
        open_tracker(settings, "safemirage").log_steps("nobody", [{"step": 1, "loss": 1.0}])


@pytest.mark.processes
def test_tracker_database_opened_by_two_processes_has_one_experiment(settings: Settings) -> None:
    code = (
        "import sys; from safemirage.settings import Settings;"
        "from safemirage.tracking import open_tracker;"
        "open_tracker(Settings.at(sys.argv[1]), 'safemirage').start(sys.argv[2], name='x', config={})"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", code, str(settings.storage.root), name])
        for name in ("a", "b")
    ]
    assert [process.wait(timeout=50) for process in processes] == [0, 0]
    assert {run.data.tags[RUN_TAG] for run in runs(settings)} == {"a", "b"}


@pytest.mark.parametrize("experiment", ["../../esc", "..", "/Users/me/exp", "50 %?"])
def test_files_of_an_experiment_of_any_name_lie_in_the_storage(
    settings: Settings, experiment: str
) -> None:
    open_tracker(settings, experiment).start("a", name="x", config=CONFIG)
    folder = settings.storage.root / "mlflow"
    (written,) = folder.rglob(CONFIG_FILE)
    assert written.relative_to(folder).parts[0] not in {".", ".."}


def test_flatten_gives_dotted_keys() -> None:
    assert dict(flatten(CONFIG)) == {
        "method.name": "npo",
        "method.beta": 0.1,
        "seed": 0,
        "model.trainable": ["a", "b"],
    }
