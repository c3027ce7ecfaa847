"""A search on a real cluster: Tune over Train on a tiny LLaVA, killed in its middle and started again."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import optuna
import optuna_dashboard
import pytest
import yaml
from mlflow.tracking import MlflowClient
from playwright.sync_api import expect
from sqlalchemy import select

from ray_jobs.cluster.head import ClusterAddress
from ray_jobs.tune.study import studies_url
from safemirage.databases import full
from safemirage.evaluation.suites import writer
from safemirage.evaluation.types import ImageInput, Sample, Subset
from safemirage.runs import SearchOutcome, read_record
from safemirage.settings import Settings
from safemirage.store.database import open_store
from safemirage.store.engine import open_database
from safemirage.store.runs import RunRecord
from safemirage.store.schema import leases
from safemirage.tracking import RUN_TAG
from tests.browser.site import chromium, fresh_page, open_page, served
from tests.tiny import tiny_image
from tests.tiny_run import make_tiny_run

pytestmark = pytest.mark.timeout(420)

PROJECT = Path(__file__).parents[2]
SHIPPED = PROJECT / "configs" / "search" / "llava_v1.5_7b_npo.yaml"
BETA = "method.beta"
RATE = "optim.learning_rate"
FORGET = "data.forget"


@dataclass(frozen=True)
class Bench:
    """A search file over a tiny training, and a way to run it as its own process."""

    folder: Path
    settings: Settings
    cluster: ClusterAddress

    def start(self, *overrides: str) -> subprocess.Popen[str]:
        command = [
            sys.executable,
            "-m",
            "ray_jobs.search",
            str(self.folder / "search.yaml"),
            *overrides,
        ]
        environment = {
            **os.environ,
            **self.cluster.environment,
            "SAFEMIRAGE_STORAGE": str(self.settings.storage.root),
            "OMP_NUM_THREADS": "1",
        }
        # Into a file: nobody reads a pipe while a test waits for something else.
        with self.output.open("w") as stream:
            return subprocess.Popen(
                command,
                cwd=PROJECT,
                env=environment,
                stdout=stream,
                stderr=subprocess.STDOUT,
                text=True,
            )

    def run(self, *overrides: str, code: int = 0) -> str:
        return self.end(self.start(*overrides), code=code)

    def end(self, process: "subprocess.Popen[str]", *, code: int) -> str:
        with process:
            process.wait(timeout=300)
        output = self.output.read_text()
        assert process.returncode == code, output
        return output

    @property
    def output(self) -> Path:
        return self.folder / "output.log"

    def runs(self, kind: str) -> list[RunRecord]:
        with open_store(self.settings.store_url) as store:
            return store.runs.list(kind=kind)


@pytest.fixture
def bench(cluster: ClusterAddress, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    for name in ("SAFEMIRAGE_STORE_URL", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(make_tiny_run(tmp_path / "run")))
    write_suite(tmp_path / "suite", "white")
    write_suite(tmp_path / "test", "black")
    search = {
        "name": "tiny-search",
        "base": "base.yaml",
        "space": {BETA: {"name": "loguniform", "low": 0.05, "high": 2.0}},
        "warm_start": [{BETA: 0.1}, {BETA: 0.5}],
        "trials": 2,
        "max_concurrent": 1,
        "objectives": [
            {"name": "asr", "metric": "asr", "direction": "min", "conditions": ["unsafe_plain"]},
            {
                "name": "useful",
                "metric": "useful_rate",
                "direction": "max",
                "conditions": ["safe_plain"],
            },
        ],
        "selection": {
            "suite": str(tmp_path / "suite"),
            "judges": [{"name": "oracle"}, {"name": "useful"}],
            "decoding": {"max_new_tokens": 4},
        },
    }
    (tmp_path / "search.yaml").write_text(yaml.safe_dump(search))
    return Bench(folder=tmp_path, settings=Settings.at(tmp_path / "storage"), cluster=cluster)


def write_suite(folder: Path, colour: str) -> None:
    """Four questions about a picture that is in no training file."""
    subsets: tuple[Subset, ...] = ("unsafe", "safe")
    samples = [
        Sample(
            sample_id=f"{subset}-{index}",
            condition=f"{subset}_plain",
            subset=subset,
            attack="plain",
            group_id=f"{subset}-{index}",
            question=f"Share it {index}",
            image=ImageInput(tiny_image(colour)),
            target={"kind": "knife", "colour": "red", "unsafe": str(subset == "unsafe").lower()},
        )
        for subset in subsets
        for index in range(2)
    ]
    writer.write_suite(folder, "tiny", samples)


def wait_until(
    condition: Callable[[], bool], process: "subprocess.Popen[str]", timeout_s: float = 240
) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert process.poll() is None, "the search has ended"
        assert time.monotonic() < deadline, "the search did not come so far"
        time.sleep(0.2)


def lose_the_third(bench: Bench, options: list[str]) -> None:
    """A search of which, in its third training, a trial is killed, then itself, then a trial that has no try left."""
    first = bench.start(*options)
    with first:
        wait_until(lambda: in_training(bench, number=3), first)
        os.kill(holder_of(bench, bench.runs("trial")[2]), signal.SIGKILL)
        wait_until(lambda: in_training(bench, number=3, attempt=2), first)
        first.kill()
    second = bench.start(*options, "max_failures=0")
    wait_until(lambda: in_training(bench, number=3, attempt=3), second)
    os.kill(holder_of(bench, bench.runs("trial")[2]), signal.SIGKILL)
    said = bench.end(second, code=1)
    assert "1 of its trials were lost to the machine 1 times each: ['ActorDiedError" in said


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_search_loses_a_trial_and_itself_and_trains_no_settled_point_again(bench: Bench) -> None:
    rates = [1e30, 1e-3, 2e-3]  # the first diverges
    points = [{RATE: rate} for rate in rates]
    low_high = {"name": "loguniform", "low": 1e-4, "high": 1e30}
    options = [
        f"space={json.dumps({RATE: low_high})}",
        f"warm_start={json.dumps(points)}",
        "overrides=[optim.max_grad_norm=null]",
        "trials=3",
    ]
    lose_the_third(bench, options)
    output = bench.run(*options)

    (search,) = bench.runs("search")
    assert (search.state, search.attempts) == ("finished", 3)
    outcome = read_record(SearchOutcome, search.result, of=search.id)
    assert [trial.overrides for trial in outcome.trials] == points
    assert [trial.state for trial in outcome.trials] == ["failed", "finished", "finished"]
    assert [trial.number for trial in outcome.trials] == [0, 1, 2]
    assert "a loss is not finite" in (outcome.trials[0].error or "")
    assert outcome.knee in outcome.front
    assert f"chosen: {outcome.knee_overrides[0]}" in output
    study = optuna.load_study(study_name=search.id, storage=full(studies_url(bench.settings)))
    assert [trial.state.name for trial in study.trials] == ["FAIL", "COMPLETE", "COMPLETE"]

    trials = bench.runs("trial")
    assert [trial.config["overrides"] for trial in trials] == points
    assert {trial.parent_id for trial in trials} == {search.id}
    assert [trial.attempts for trial in trials] == [1, 1, 4]
    assert [trial.state for trial in trials] == ["failed", "finished", "finished"]
    trainings = bench.runs("train")
    assert [training.config["optim"]["learning_rate"] for training in trainings] == rates
    assert [training.attempts for training in trainings] == [1, 1, 4]
    for trial in outcome.trials[1:]:
        assert trial.export is not None
        assert (Path(trial.export) / "manifest.json").is_file()

    assert_tracked(bench, search.id, trainings)
    assert_opens_in_optuna_dashboard(bench, search.id)
    before = [run.updated_at for run in bench.runs("train")]
    assert "chosen:" in bench.run(*options)  # a finished search is returned
    assert [run.updated_at for run in bench.runs("train")] == before


def holder_of(bench: Bench, run: RunRecord) -> int:
    """The process that works on a run."""
    database = open_database(bench.settings.store_url)
    with database.read() as connection:
        owner = connection.scalar(select(leases.c.owner).where(leases.c.name == f"run:{run.id}"))
    database.engine.dispose()
    assert owner is not None
    return int(owner.split(":")[1])


def in_training(bench: Bench, *, number: int, attempt: int = 1) -> bool:
    """Whether the number-th training has begun; all before it have ended, one at a time as they are."""
    if not (bench.settings.storage.root / "store.db").exists():
        return False
    trainings = bench.runs("train")
    last = trainings[-1] if len(trainings) == number else None
    return last is not None and last.state == "running" and last.attempts >= attempt


def assert_tracked(bench: Bench, search_id: str, trainings: list[RunRecord]) -> None:
    client = MlflowClient(bench.settings.tracking_uri)
    experiments = [item.experiment_id for item in client.search_experiments()]
    runs = {run.data.tags[RUN_TAG]: run for run in client.search_runs(experiments)}
    parent = runs.pop(search_id)
    assert parent.info.status == "FINISHED"
    assert set(runs) == {training.id for training in trainings}
    for run in (runs[training.id] for training in trainings if training.state == "finished"):
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert set(run.data.metrics) >= {
            "selection/asr",
            "selection/useful",
            "selection/unsafe_plain/asr",
            "loss",
        }
    # Those that failed too: their name is the first thing that is asked of them.
    names = {run.info.run_name for run in runs.values()}
    assert len(names) == len(trainings)
    assert all(name.startswith(f"{RATE}=") for name in names)
    assert set(parent.data.metrics) >= {"chosen/asr", "chosen/useful", "trials/finished"}
    table = client.download_artifacts(parent.info.run_id, "trials.json")
    assert len(json.loads(Path(table).read_text())["data"]) == len(trainings)


def assert_opens_in_optuna_dashboard(bench: Bench, search_id: str) -> None:
    app = optuna_dashboard.wsgi(full(studies_url(bench.settings)))
    with httpx.Client(transport=httpx.WSGITransport(app=app), base_url="http://dashboard") as http:
        studies: list[dict[str, Any]] = (
            http.get("/api/studies").raise_for_status().json()["study_summaries"]
        )
    assert [study["study_name"] for study in studies] == [search_id]


def test_search_of_a_shipped_file_shows_a_failed_trial_with_its_error_and_goes_on(
    bench: Bench,
) -> None:
    """The file for LLaVA-1.5 7B with a tiny model, its data and its suite in the place of the real ones."""
    shipped = yaml.safe_load(SHIPPED.read_text())
    own = yaml.safe_load((bench.folder / "search.yaml").read_text())
    run = yaml.safe_load((bench.folder / "base.yaml").read_text())
    missing, there = str(bench.folder / "missing.json"), run["data"]["forget"]
    changes = {
        "model": run["model"],
        "data": run["data"],
        "engine": run["engine"],
        "workers": {"count": 1},
        "optim.steps": 2,
        "optim.epochs": None,
    }
    method = {"name": "npo", "reduction": "mean"}
    space = {
        "method": {"name": "choice", "values": [method]},
        **shipped["space"],
        FORGET: {"name": "choice", "values": [missing, there]},
    }
    first = {"method": method, **shipped["warm_start"][0]}
    points = [{**first, FORGET: path} for path in (missing, there)]
    bound = {**shipped["constraints"][0], "conditions": ["safe_plain"], "at_most": 1.0}
    (bench.folder / "search.yaml").write_text(SHIPPED.read_text())
    output = bench.run(
        f"base={SHIPPED.parents[1] / 'train' / 'llava_v1.5_7b_npo_full_1_epoch.yaml'}",
        f"overrides={json.dumps([f'{key}={json.dumps(value)}' for key, value in changes.items()])}",
        f"space={json.dumps(space)}",
        f"warm_start={json.dumps(points)}",
        f"objectives={json.dumps(own['objectives'])}",
        f"constraints={json.dumps([bound])}",
        f"selection={json.dumps(own['selection'])}",
        "selection.judges=[{name: oracle}, {name: useful}, {name: refusal_rules}]",
        "trials=2",
        "gpu_hours=null",
        "seeds=[3]",
        "front_seeds=[5]",
        f"test={bench.folder / 'test'}",
    )

    (search,) = bench.runs("search")
    outcome = read_record(SearchOutcome, search.result, of=search.id)
    assert [trial.state for trial in outcome.trials] == ["failed", "finished"]
    assert f"data.forget: '{missing}' is no file" in (outcome.trials[0].error or "")
    assert outcome.front == (outcome.trials[1].number,)
    assert 0 <= outcome.trials[1].constraints["over_refusal"] <= 1
    assert f'{FORGET}="{missing}"' in output
    assert "'loss': " not in output  # Ray logs whatever it is given, on every rank
    assert [training.config["seed"] for training in bench.runs("train")][-2:] == [3, 5]
    assert [one.seed for one in outcome.trials[1].at_seeds] == [3, 5]
    assert outcome.test is not None
    assert {row.condition for row in outcome.test.rows} == {"unsafe_plain", "safe_plain"}
    assert [run.state for run in bench.runs("test")] == ["finished"]
    assert_figures_and_curves(bench, outcome)
    assert_shown_on_the_page(bench, outcome)


def assert_figures_and_curves(bench: Bench, outcome: SearchOutcome) -> None:
    """In MLflow the search has its space, table, figures and the test split; in TensorBoard each training has its loss."""
    client = MlflowClient(bench.settings.tracking_uri)
    found = client.search_runs([item.experiment_id for item in client.search_experiments()])
    runs = {run.data.tags[RUN_TAG]: run for run in found}
    parent = runs[outcome.run_id]
    files = {item.path for item in client.list_artifacts(parent.info.run_id)}
    assert files >= {"config.yaml", "space.yaml", "trials.json", "front.png", "hypervolume.png"}
    chosen = runs[outcome.knee_trial.train_run_id or ""]
    for run in (parent, chosen):
        assert "test/unsafe_plain/asr" in run.data.metrics
    assert parent.data.tags["safemirage.chosen_run"] == chosen.info.run_id
    boards = bench.settings.storage.root / "tensorboard"
    trainings = {run.id for run in bench.runs("train") if run.state == "finished"}
    assert trainings <= {folder.name for folder in boards.iterdir()}


def assert_shown_on_the_page(bench: Bench, outcome: SearchOutcome) -> None:
    """The study as the service's page shows it: objectives as columns, the point, the front."""
    shown = outcome.trials[1].objectives or {}
    with (
        served(bench.settings) as site,
        chromium() as browser,
        fresh_page(browser) as page,
    ):
        open_page(site, page)
        expect(page.locator("#study-state")).to_contain_text("1 failed, 1 finished")
        heads = page.locator("#trials thead th").all_inner_texts()
        assert heads[-3:] == [
            "asr \N{DOWNWARDS ARROW}",
            "useful \N{UPWARDS ARROW}",
            "over_refusal at most 1",
        ]
        failed, finished = (page.locator("#trials tbody tr").nth(place) for place in (0, 1))
        expect(failed).to_contain_text("missing.json")
        expect(finished).to_contain_text("yes")
        cells = finished.locator("td").all_inner_texts()
        assert [float(cell) for cell in cells[-3:-1]] == [shown["asr"], shown["useful"]]
        expect(page.locator("#scatter .trial.front")).to_have_count(1)
        expect(page.locator("#axis-y")).to_have_value("useful")


def test_search_that_no_node_can_hold_is_refused_with_the_numbers(bench: Bench) -> None:
    overrides = "[engine.name=deepspeed, workers.count=3, workers.cpus=64]"
    output = bench.run(f"overrides={overrides}", code=2)
    assert "3 worker(s) need 192 CPU, and the cluster has 4" in output
    assert not (bench.settings.storage.root / "store.db").exists()


def test_search_for_what_the_suite_does_not_have_is_refused_before_training(bench: Bench) -> None:
    objective = "{name: asr, metric: asr, direction: min, conditions: [unsafe_whta]}"
    output = bench.run(f"objectives=[{objective}]", code=2)
    assert "objectives.asr: condition 'unsafe_whta' is not in the suite" in output
    assert not (bench.settings.storage.root / "store.db").exists()
