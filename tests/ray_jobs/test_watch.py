"""What the watcher keeps of snapshots that are reported twice, or that cannot be evaluated, and who reads it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ray_jobs import watch
from ray_jobs.watch import Watcher
from safemirage.config.generators import TransformersConfig
from safemirage.config.loading.load import build_config
from safemirage.config.train import WatchConfig
from safemirage.evaluation.generators import Generator, GeneratorUnavailable
from safemirage.evaluation.generators.scripted import ScriptedGenerator
from safemirage.evaluation.reports.report import ReportInput, ReportModel, write_report
from safemirage.evaluation.run.archive import load_evaluations
from safemirage.runs import Measured
from safemirage.settings import Secrets
from safemirage.store import open_store
from tests.evaluation.samples import sample_record, write_suite


class Silent:
    def log_steps(self, run_id: str, steps: list[dict[str, float]]) -> None: ...


def config(folder: Path, **changes: Any) -> WatchConfig:
    suite = write_suite(folder / "suite", [sample_record(item) for item in "12"])
    evaluation = {
        "model": {"name": "transformers", "path": "snapshot"},
        "suite": str(suite),
        "judges": [{"name": "keywords"}],
        **changes,
    }
    return build_config(WatchConfig, {"every_steps": 3, "evaluation": evaluation})


def snapshot(folder: Path, step: int) -> Path:
    made = folder / f"step-{step}"
    made.mkdir()
    return made


def store_url(folder: Path) -> str:
    return f"sqlite:///{folder / 'store.db'}"


def measured(folder: Path, *snapshots: Path, **changes: Any) -> tuple[Measured, ...]:
    with open_store(store_url(folder)) as store:
        tracker: Any = Silent()
        given = config(folder, **changes)
        with Watcher(
            given,
            run_id="r",
            folder=folder,
            store=store,
            tracker=tracker,
            secrets=Secrets({}),
        ) as watcher:
            for item in snapshots:
                watcher.take(item)
        return watcher.measured()


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Snapshots that an engine was opened for, by name. All else is the real thing: suite, judge, store."""
    names: list[str] = []

    @asynccontextmanager
    async def open_engine(model: TransformersConfig, **_: Any) -> AsyncIterator[Generator]:
        names.append(Path(model.path).name)
        assert Path(model.path).is_dir()
        yield ScriptedGenerator(lambda request: "a red knife", version=model.path)

    monkeypatch.setattr(watch, "open_engine", open_engine)
    return names


def test_snapshot_reported_twice_keeps_its_rows(tmp_path: Path, opened: list[str]) -> None:
    made = snapshot(tmp_path, 3)
    (entry,) = measured(tmp_path, made, made)
    assert entry.rows is not None
    assert [(row.metric, row.value) for row in entry.rows][:3] == [
        ("asr", 1.0),
        ("degenerate_rate", 0.0),
        ("refusal_rate", 0.0),
    ]
    assert (entry.step, entry.error) == (3, "")
    assert (opened, made.exists()) == (["step-3"], False)


def test_snapshot_made_again_is_deleted_unasked(tmp_path: Path, opened: list[str]) -> None:
    first = measured(tmp_path, snapshot(tmp_path, 3))
    again = snapshot(tmp_path, 3)
    assert measured(tmp_path, again) == first
    assert (opened, again.exists()) == (["step-3"], False)


def test_another_evaluation_measures_anew(tmp_path: Path, opened: list[str]) -> None:
    measured(tmp_path, snapshot(tmp_path, 3))
    assert measured(tmp_path, batch_size=1) == ()
    measured(tmp_path, snapshot(tmp_path, 3), batch_size=1)
    assert opened == ["step-3"] * 2


def test_judge_that_is_away_is_said_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def open_engine(*_: Any, **__: Any) -> Any:
        raise GeneratorUnavailable("no judge at this URL")

    monkeypatch.setattr(watch, "open_engine", open_engine)
    made = snapshot(tmp_path, 3)
    (found,) = measured(tmp_path, made)
    assert (found.error, found.rows) == ("GeneratorUnavailable: no judge at this URL", None)
    assert made.is_dir()


def test_report_shows_what_was_watched(tmp_path: Path, opened: list[str]) -> None:
    found = measured(tmp_path, snapshot(tmp_path, 3), snapshot(tmp_path, 6))
    ids = [entry.evaluation for entry in found if entry.evaluation is not None]
    with open_store(store_url(tmp_path)) as store:
        stored = load_evaluations(store, ids)
        models = [ReportModel(name=one.name, evaluation_id=one.id) for one in stored]
        report = write_report(store, ReportInput(title="t", models=models), tmp_path / "report")
    assert [one.name for one in stored] == ["r-step3", "r-step6"]
    shown = [replace(row, model="m") for row in report.rows]
    assert shown == [replace(row, model="m") for entry in found for row in entry.rows or ()]
    assert "r-step6" in report.html.read_text()
