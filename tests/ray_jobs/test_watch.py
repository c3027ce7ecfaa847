"""What the watcher keeps of snapshots that are reported twice, or that cannot be evaluated."""

from pathlib import Path
from typing import Any

import pytest

from ray_jobs import watch
from ray_jobs.watch import Watcher
from safemirage.config.load import build_config
from safemirage.config.train import WatchConfig
from safemirage.evaluation.calls import ModelCalls
from safemirage.evaluation.generators import GeneratorUnavailable
from safemirage.evaluation.many import Outcome
from safemirage.store import open_store
from safemirage.store.evaluations import Evaluation

ROW = {
    "model": "m", "case": "c", "metric": "asr", "judge": "keywords",
    "value": 0.5, "low": 0.1, "high": 0.9, "n": 2, "unscored": 0,
}  # fmt: skip


class Silent:
    def log_steps(self, run_id: str, steps: list[dict[str, float]]) -> None: ...


def config(**changes: Any) -> WatchConfig:
    evaluation = {
        "model": {"name": "transformers", "path": "snapshot"},
        "suite": "suite",
        "judges": [{"name": "keywords"}],
        **changes,
    }
    return build_config(WatchConfig, {"every_steps": 3, "evaluation": evaluation})


def snapshot(folder: Path, step: int) -> Path:
    made = folder / f"step-{step}"
    made.mkdir()
    return made


def measured(folder: Path, *snapshots: Path, **changes: Any) -> list[dict[str, Any]]:
    with open_store(f"sqlite:///{folder / 'store.db'}") as store:
        tracker: Any = Silent()
        with Watcher(
            config(**changes), run_id="r", folder=folder, store=store, tracker=tracker
        ) as watcher:
            for item in snapshots:
                watcher.take(item)
        return watcher.measured()


@pytest.fixture
def evaluated(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Snapshots that were evaluated, by name; each gets one row."""
    names: list[str] = []

    async def run_many(configs: Any, **_: Any) -> list[Outcome]:
        (one,) = configs
        names.append(Path(one.model.path).name)
        assert Path(one.model.path).is_dir()
        ended = Evaluation.__new__(Evaluation)
        object.__setattr__(ended, "rows", [ROW])
        return [Outcome(config=one, evaluation=ended, calls=ModelCalls())]

    monkeypatch.setattr(watch, "run_many", run_many)
    return names


def test_snapshot_reported_twice_keeps_its_rows(tmp_path: Path, evaluated: list[str]) -> None:
    made = snapshot(tmp_path, 3)
    assert measured(tmp_path, made, made) == [{"step": 3, "rows": [ROW]}]
    assert (evaluated, made.exists()) == (["step-3"], False)


def test_snapshot_made_again_is_deleted_unasked(tmp_path: Path, evaluated: list[str]) -> None:
    measured(tmp_path, snapshot(tmp_path, 3))
    again = snapshot(tmp_path, 3)
    assert measured(tmp_path, again) == [{"step": 3, "rows": [ROW]}]
    assert (evaluated, again.exists()) == (["step-3"], False)


def test_another_evaluation_measures_anew(tmp_path: Path, evaluated: list[str]) -> None:
    measured(tmp_path, snapshot(tmp_path, 3))
    assert measured(tmp_path, suite="other") == []
    measured(tmp_path, snapshot(tmp_path, 3), suite="other")
    assert evaluated == ["step-3"] * 2


def test_judge_that_is_away_is_said_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run_many(*_: Any, **__: Any) -> list[Outcome]:
        raise GeneratorUnavailable("no judge at this URL")

    monkeypatch.setattr(watch, "run_many", run_many)
    made = snapshot(tmp_path, 3)
    found = measured(tmp_path, made)
    assert found == [{"step": 3, "error": "GeneratorUnavailable: no judge at this URL"}]
    assert made.is_dir()
