"""Training runs on a real Ray cluster: two workers on the CPU, DeepSpeed, MLflow on SQLite."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray
from mlflow.tracking import MlflowClient
from ray.train import UserCallback
from safetensors.torch import load_file

from ray_jobs.cluster.head import ClusterAddress
from ray_jobs.train import TrainingFailed, run_training
from safemirage.config.loading.identity import run_identity
from safemirage.config.loading.load import dump_yaml
from safemirage.config.train import TrainConfig
from safemirage.models.loading import load_for_inference
from safemirage.settings import Settings
from safemirage.store.database import open_store
from safemirage.store.runs import RunRecord
from safemirage.tracking import RUN_TAG
from safemirage.training.job import StepMetrics
from tests.cli.calling import run
from tests.tiny_run import make_tiny_run, tiny_train_config, train_tiny

# The controller unpickles callbacks of this module, which it cannot import.
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])

pytestmark = [pytest.mark.timeout(400), pytest.mark.usefixtures("ray_driver")]

RMU = {"name": "rmu", "hook_layer": 1, "steering_coefficient": 2.0}
TEN_STEPS = {"steps": 10}
PLAIN_LOSSES = ("loss", "forget/loss", "retain/loss")


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return make_tiny_run(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SAFEMIRAGE_STORE_URL", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return Settings.at(tmp_path_factory.mktemp("storage"))


def two_workers(tree: dict[str, Any], *, stage: int = 2, **branches: Any) -> TrainConfig:
    engine = {"name": "deepspeed", "stage": stage}
    return tiny_train_config({**tree, "workers": {"count": 2}}, engine=engine, **branches)


def tracked(settings: Settings, run_id: str) -> Any:
    client = MlflowClient(settings.tracking_uri)
    experiment = client.get_experiment_by_name("safemirage")
    query = f"tags.`{RUN_TAG}` = '{run_id}'"
    (run,) = client.search_runs([experiment.experiment_id], filter_string=query)
    return run


def curve(settings: Settings, run_id: str, name: str) -> list[tuple[int, float]]:
    client = MlflowClient(settings.tracking_uri)
    history = client.get_metric_history(tracked(settings, run_id).info.run_id, name)
    return [(metric.step, metric.value) for metric in history]


def assert_curves_equal(
    settings: Settings, run_id: str, expected: list[StepMetrics], rel: float
) -> None:
    for name in PLAIN_LOSSES:
        found = curve(settings, run_id, name)
        assert [step for step, _ in found] == [int(step["step"]) for step in expected]
        assert [value for _, value in found] == pytest.approx([s[name] for s in expected], rel=rel)


@pytest.mark.parametrize(
    ("method", "stage"),
    [
        pytest.param({"name": "npo", "beta": 0.5}, 2, id="npo-zero2"),
        pytest.param({"name": "npo", "beta": 0.5}, 0, id="npo-zero0", marks=pytest.mark.slow),
        pytest.param(RMU, 3, id="rmu-zero3"),
    ],
)
def test_training_on_two_workers_equals_one_plain_process(
    tree: dict[str, Any], settings: Settings, tmp_path: Path, method: dict[str, Any], stage: int
) -> None:
    # Small steps: a run that moves fast magnifies the rounding of its sums.
    branches: dict[str, Any] = {"method": method, "optim": {"learning_rate": 2e-5}}
    config = two_workers(tree, stage=stage, name=f"tiny-z{stage}", **branches)
    record = run_training(config, settings=settings)
    plain = train_tiny(tree, tmp_path, **branches)
    assert_curves_equal(settings, record.id, plain, rel=1e-5)
    assert record.result is not None
    export = Path(record.result["export"])
    assert export == settings.storage.exports / record.id
    weights = load_file(export / "model.safetensors")
    for name, value in load_file(tmp_path / "export" / "model.safetensors").items():
        assert weights[name] == pytest.approx(value, abs=1e-4)
    assert load_for_inference(export).weights_digest
    run = tracked(settings, record.id)
    assert run.info.status == "FINISHED"
    assert run.data.params["engine.stage"] == str(stage)
    # What it would have resumed from is of no use any more, and large.
    assert not (settings.storage.runs / record.id / "checkpoints").exists()
    assert {
        "memory/rss_mb",
        "speed/samples_per_s",
        "optim/learning_rate",
    } <= run.data.metrics.keys()
    assert record.progress["done"] == record.progress["total"] == 6


class KillOnce(UserCallback):
    """Runs in Ray Train's controller, and kills a worker, or the controller itself, when a step is reported."""

    def __init__(self, step: int, marker: Path, *, worker: int | None) -> None:
        self.step = step
        self.marker = marker
        self.worker = worker
        """Rank; None: the controller."""

    def after_report(
        self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any
    ) -> None:
        if metrics[self.worker or 0].get("step", 0) >= self.step and not self.marker.exists():
            self.marker.touch()
            pid = os.getpid() if self.worker is None else metrics[self.worker]["pid"]
            os.kill(pid, signal.SIGKILL)


def test_training_whose_worker_is_killed_ends_with_the_losses_of_an_undisturbed_run(
    tree: dict[str, Any], settings: Settings, tmp_path: Path, quiet: RunRecord
) -> None:
    undisturbed = train_tiny(tree, tmp_path, optim=TEN_STEPS, method=RMU)
    config = two_workers(tree, optim=TEN_STEPS, method=RMU, name="killed")
    marker = tmp_path / "killed"
    record = run_training(config, settings=settings, callbacks=[KillOnce(4, marker, worker=1)])
    assert marker.exists()
    assert_ends_as(quiet, record)
    assert_curves_equal(settings, record.id, undisturbed, rel=1e-5)


@pytest.mark.slow
def test_training_whose_controller_is_killed_goes_on(
    tree: dict[str, Any], settings: Settings, tmp_path: Path, quiet: RunRecord
) -> None:
    config = two_workers(tree, optim=TEN_STEPS, method=RMU, name="no-controller")
    marker = tmp_path / "killed"
    record = run_training(config, settings=settings, callbacks=[KillOnce(4, marker, worker=None)])
    assert marker.exists()
    assert record.attempts == 1
    assert_ends_as(quiet, record)


@pytest.mark.slow
def test_training_whose_whole_job_is_killed_goes_on_when_it_is_asked_for_again(
    tree: dict[str, Any], settings: Settings, tmp_path: Path, quiet: RunRecord
) -> None:
    config = two_workers(tree, optim=TEN_STEPS, method=RMU, name="no-job")
    file = tmp_path / "run.yaml"
    file.write_text(dump_yaml(config))
    job = subprocess.Popen(
        [sys.executable, "-m", "ray_jobs.train", str(file)],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "SAFEMIRAGE_STORAGE": str(settings.storage.root)},
    )
    try:
        wait_for(lambda: any(settings.storage.runs.glob("no-job-*/checkpoints/step-*")))
    finally:
        job.kill()
        job.wait()
    with open_store(settings.store_url) as store:
        (left,) = [run for run in store.runs.list(kind="train") if run.name == "no-job"]
    assert left.state == "running"
    record = run_training(config, settings=settings)
    assert record.attempts == 2
    assert_ends_as(quiet, record)


@pytest.fixture(scope="module")
def quiet(tree: dict[str, Any], settings: Settings, ray_driver: ClusterAddress) -> RunRecord:
    """Two workers that nobody disturbs."""
    record = run_training(
        two_workers(tree, optim=TEN_STEPS, method=RMU, name="quiet"), settings=settings
    )
    assert record.result is not None
    assert record.result["resumed_from"] == 0
    return record


def assert_ends_as(quiet: RunRecord, record: RunRecord) -> None:
    assert quiet.result is not None
    assert record.result is not None
    assert record.result["resumed_from"] >= 2
    for name in (*PLAIN_LOSSES, "retain/activation_loss", "optim/gradient_norm"):
        one, other = record.result["metrics"][name], quiet.result["metrics"][name]
        assert one == pytest.approx(other, rel=1e-6)
    exports = [load_file(Path(r.result["export"]) / "model.safetensors") for r in (record, quiet)]
    for name, value in exports[0].items():
        assert exports[1][name] == pytest.approx(value, abs=1e-6)


def test_training_that_cannot_write_its_checkpoints_fails_at_once_with_the_way_out(
    tree: dict[str, Any], settings: Settings
) -> None:
    config = sft(tree, name="unwritable", checkpoint={"every_steps": 1})
    run_id = f"unwritable-{run_identity(config)[:12]}"
    folder = settings.storage.runs / run_id
    folder.mkdir(parents=True)
    (folder / "checkpoints").write_text("a file in the folder's place")
    with pytest.raises(
        TrainingFailed, match=r"checkpoints: cannot be written.*start the run again"
    ):
        run_training(config, settings=settings)


def sft(tree: dict[str, Any], **branches: Any) -> TrainConfig:
    """The shortest run there is: one worker, plain PyTorch."""
    return tiny_train_config(tree, method={"name": "sft"}, optim={"steps": 2}, **branches)


def test_training_asked_for_again_is_not_repeated_until_a_byte_of_its_data_changes(
    tmp_path: Path, settings: Settings
) -> None:
    tree = make_tiny_run(tmp_path / "tiny")
    first = run_training(sft(tree, name="once"), settings=settings)
    again = run_training(sft(tree, name="once"), settings=settings)
    assert again == first
    retain = tmp_path / "tiny" / "retain.json"
    retain.write_text(retain.read_text().replace("green cup", "greet cup", 1))
    changed = run_training(sft(tree, name="once"), settings=settings)
    assert changed.id != first.id
    assert changed.result is not None
    assert first.result is not None
    assert changed.result["metrics"]["loss"] != first.result["metrics"]["loss"]


class SignalStart(UserCallback):
    """Makes a file at the first report, and waits for another before it goes on."""

    def __init__(self, started: Path, go_on: Path) -> None:
        self.started = started
        self.go_on = go_on

    def after_report(
        self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any
    ) -> None:
        import time

        self.started.touch()
        while not self.go_on.exists():
            time.sleep(0.05)


def test_training_asked_for_while_it_runs_is_followed(
    tree: dict[str, Any], settings: Settings, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config = sft(tree, name="live")
    started, go_on = tmp_path / "started", tmp_path / "go-on"
    records: list[RunRecord] = []

    def ask(*callbacks: UserCallback) -> None:
        records.append(run_training(config, settings=settings, callbacks=callbacks))

    first = threading.Thread(target=ask, args=[SignalStart(started, go_on)])
    first.start()
    wait_for(started.exists)
    second = threading.Thread(target=ask)
    second.start()
    wait_for(lambda: "another process works on it" in capfd.readouterr().err)
    go_on.touch()
    first.join()
    second.join()
    assert records[0] == records[1]
    assert records[0].attempts == 1


def wait_for(condition: Callable[[], bool], timeout_s: float = 120) -> None:
    event = threading.Event()
    for _ in range(int(timeout_s / 0.1)):
        if condition():
            return
        event.wait(0.1)
    raise TimeoutError("the condition did not come true")


def test_training_that_diverges_fails_without_restarts(
    tree: dict[str, Any], settings: Settings
) -> None:
    optim = {"learning_rate": 1e30, "max_grad_norm": None}
    config = tiny_train_config(tree, method={"name": "sft"}, name="diverged", optim=optim)
    with pytest.raises(TrainingFailed, match="a loss is not finite"):
        run_training(config, settings=settings)
    with open_store(settings.store_url) as store:
        (record,) = [run for run in store.runs.list(kind="train") if run.name == "diverged"]
    assert record.state == "failed"
    assert record.error is not None
    assert "optim.learning_rate" in record.error
    assert tracked(settings, record.id).info.status == "FAILED"


@pytest.mark.slow
def test_training_that_lost_a_worker_once_too_often_resumes_later_on_one_under_another_stage(
    tree: dict[str, Any], settings: Settings, tmp_path: Path
) -> None:
    optim = {"steps": 10, "learning_rate": 2e-5}
    config = two_workers(tree, name="failed", optim=optim)
    fragile = replace(config, workers=replace(config.workers, max_failures=0))
    with pytest.raises(TrainingFailed) as caught:
        run_training(
            fragile, settings=settings, callbacks=[KillOnce(4, tmp_path / "killed", worker=1)]
        )
    assert caught.value.failure.cause == "machine"

    one = replace(config, workers=replace(config.workers, count=1))
    record = run_training(replace(one, engine=replace(one.engine, stage=3)), settings=settings)
    assert record.attempts == 2
    assert record.result is not None
    assert record.result["resumed_from"] >= 2
    assert_curves_equal(settings, record.id, train_tiny(tree, tmp_path, optim=optim), rel=1e-5)


def test_training_out_of_memory_on_the_device_ends_once_with_the_reason(
    tree: dict[str, Any], settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts = tmp_path / "starts"

    def full(settings: dict[str, Any]) -> None:
        import torch
        from torch import distributed

        with starts.open("a") as file:
            file.write("x")
        distributed.barrier()
        if distributed.get_rank() == 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        distributed.barrier()  # as the others wait for it in a step

    monkeypatch.setattr("ray_jobs.worker.training.work", full)
    with pytest.raises(TrainingFailed, match="CUDA out of memory") as caught:
        run_training(two_workers(tree, name="full"), settings=settings)
    assert caught.value.failure.cause == "method"
    assert starts.read_text() == "xx"  # two workers, started once


@pytest.mark.slow
def test_training_waits_for_what_others_hold_and_says_for_what(
    tree: dict[str, Any],
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "2")
    holder = ray.remote(num_cpus=4)(Holder).remote()
    ray.get(holder.hold.remote())
    records: list[RunRecord] = []
    asked = threading.Thread(
        target=lambda: records.append(run_training(sft(tree, name="waits"), settings=settings))
    )
    asked.start()
    try:
        said: list[str] = []

        def has_waited() -> bool:
            said.extend(capfd.readouterr().err.splitlines())
            return sum("waits for 1 x CPU 1; free now: CPU 0" in line for line in said) >= 3

        wait_for(has_waited)  # the first two waits ran out
    finally:
        ray.kill(holder)
    asked.join()
    assert [record.state for record in records] == ["finished"]


class Holder:
    """Another's job, which holds CPUs."""

    def hold(self) -> None:
        pass


def test_training_submitted_as_a_job_with_a_token_finishes(
    tree: dict[str, Any], cluster: ClusterAddress, tmp_path: Path
) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(dump_yaml(sft(tree, name="job")))
    root = Path(__file__).parents[2]
    command = [
        str(Path(sys.executable).with_name("ray")), "job", "submit", "--working-dir", str(root),
        "--runtime-env-json", f'{{"env_vars": {{"SAFEMIRAGE_STORAGE": "{tmp_path}"}}}}',
        "--", sys.executable, "-m", "ray_jobs.train", str(file), "optim.learning_rate=2e-3",
    ]  # fmt: skip
    environment = {**os.environ, **cluster.environment}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "finished after 2 steps" in done.stdout
    (export,) = (tmp_path / "exports").iterdir()
    assert load_for_inference(export).weights_digest


def test_train_command_with_things_missing_lists_them_all(
    tree: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(dump_yaml(sft(tree)))
    overrides = ["workers.gpu=true", "model.path=./nowhere", "data.image_folder=./none"]
    assert run("train", file, *overrides) == 2
    message = capsys.readouterr().err
    for expected in (
        "GPU",
        f"model.path: '{Path.cwd() / 'nowhere'}'",
        f"data.image_folder: '{Path.cwd() / 'none'}'",
    ):
        assert expected in message
