"""The study of a search: what is proposed, and what a restart makes of it. Optuna on SQLite, without a cluster."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import optuna
import optuna_dashboard
import pytest
from optuna.trial import TrialState

from ray_jobs.cluster.failures import Cause, Failure
from ray_jobs.tune.study import (
    Study,
    StudySearch,
    failure_result,
    objective_key,
    open_studies,
    studies_url,
)
from safemirage.config.loading.load import build_config
from safemirage.config.plan import SearchPlan
from safemirage.config.search import SearchConfig
from safemirage.config.train import TrainConfig
from safemirage.databases import full, sqlite_url
from safemirage.settings import read_settings

BETA, REDUCTION = "method.beta", "method.reduction"
CONFIG: dict[str, Any] = {
    "base": "/base.yaml",
    "space": {
        BETA: {"name": "loguniform", "low": 0.05, "high": 2},
        REDUCTION: {"name": "choice", "values": ["sum", "mean"]},
    },
    "objectives": [
        {"name": "asr", "metric": "asr", "conditions": ["unsafe"], "direction": "min"},
        {"name": "useful", "metric": "useful_rate", "conditions": ["safe"], "direction": "max"},
    ],
    "trials": 7,
    "seed": 3,
    "warm_start": [{BETA: 0.1, REDUCTION: "sum"}, {BETA: 0.5, REDUCTION: "mean"}],
    "sampler": {"name": "tpe", "startup_trials": 3},
    "selection": {"suite": "suite", "judges": [{"name": "oracle"}]},
}


BASE = {
    "model": {"path": "some/model"},
    "data": {"retain": "retain.json", "forget": "forget.json"},
    "method": {"name": "npo"},
    "optim": {"learning_rate": 2e-4, "steps": 10},
}


def open_study(folder: Path, **changes: Any) -> Study:
    config = build_config(SearchConfig, {**CONFIG, **changes})
    plan = SearchPlan(config=config, base=build_config(TrainConfig, BASE))
    return Study(plan, name="search-1", storage=open_studies(sqlite_url(folder / "studies.db")))


def result_of(point: dict[str, Any]) -> dict[str, float]:
    """Any repeatable numbers."""
    return {
        objective_key("asr"): point[BETA] / 2,
        objective_key("useful"): 1 - abs(point[BETA] - 0.5) / 2,
    }


def drive(study: Study, count: int, *, name: str = "t") -> Iterator[dict[str, Any]]:
    """Tune's part of a search, one trial at a time."""
    search = StudySearch(study)
    for index in range(count):
        point = search.suggest(f"{name}{index}")
        if point == StudySearch.FINISHED:
            return
        assert isinstance(point, dict)
        yield point
        search.on_trial_complete(f"{name}{index}", result_of(point))


def test_study_tries_the_warm_start_first_and_only_once(tmp_path: Path) -> None:
    for _ in range(2):
        study = open_study(tmp_path)
        assert study.prepare() == 7
    points = list(drive(study, 4))
    assert points[:2] == CONFIG["warm_start"]
    assert points[2] not in CONFIG["warm_start"]
    assert open_study(tmp_path).prepare() == 3


def test_study_proposes_within_the_space_and_says_what_mattered(tmp_path: Path) -> None:
    study = open_study(tmp_path, trials=12)
    study.prepare()
    for point in drive(study, 7):
        assert 0.05 <= point[BETA] <= 2
        assert point[REDUCTION] in ("sum", "mean")
    assert study.importances() == {}, "too few trials"
    list(drive(study, 5, name="more"))
    found = study.importances()
    assert found.keys() == {"asr", "useful"}
    # Only beta counts in `result_of`.
    assert all(shares[BETA] > shares[REDUCTION] for shares in found.values())
    assert all(one.hours >= 0 for one in study.proposals())


@pytest.mark.parametrize(
    "sampler",
    [
        {"name": "tpe", "startup_trials": 3},
        {"name": "random"},
        {"name": "gp", "startup_trials": 3},
        {"name": "nsga2", "population": 2},
        {"name": "auto"},
    ],
    ids=lambda sampler: sampler["name"],
)
def test_study_cut_off_proposes_what_it_would_have(tmp_path: Path, sampler: dict[str, Any]) -> None:
    for folder in ("whole", "cut"):
        (tmp_path / folder).mkdir()
    whole = open_study(tmp_path / "whole", sampler=sampler)
    whole.prepare()
    expected = list(drive(whole, 7))

    first = open_study(tmp_path / "cut", sampler=sampler)
    first.prepare()
    running = drive(first, 7, name="first")
    seen = [next(running) for _ in range(4)]  # three are complete, the fourth is under way
    second = open_study(tmp_path / "cut", sampler=sampler)
    assert second.prepare() == 4
    resumed = list(drive(second, 4, name="second"))

    assert seen == expected[:4]
    assert resumed == expected[3:]
    assert [proposal.point for proposal in second.proposals()] == expected


def test_study_with_a_lost_trial_tries_it_again_under_its_number_and_never_fails_it(
    tmp_path: Path,
) -> None:
    study = open_study(tmp_path)
    study.prepare()
    search = StudySearch(study)
    point = search.suggest("lost")
    search.on_trial_complete("lost", None, error=True)  # as Tune says it of a process that died
    assert search.lost == [0]

    again = open_study(tmp_path)
    assert again.prepare() == 7
    assert next(drive(again, 1)) == point
    (proposal,) = again.proposals()
    assert (proposal.number, proposal.state) == (0, TrialState.RUNNING)


def test_study_proposes_a_second_point_beside_the_first_only_where_there_is_room(
    tmp_path: Path,
) -> None:
    study = open_study(tmp_path)
    study.prepare()
    room = False
    search = StudySearch(study, has_room=lambda: room)
    first = search.suggest("first")  # it waits for its own
    assert first is not None
    assert search.suggest("second") is None
    room = True
    assert search.suggest("second") is not None
    room = False
    for name in ("first", "second"):
        search.on_trial_complete(name, result_of(first))
    assert search.suggest("third") is not None


@pytest.mark.parametrize(("cause", "tried_again"), [("method", False), ("config", True)])
def test_study_tries_a_failed_trial_again_only_where_that_may_help(
    tmp_path: Path, cause: Cause, tried_again: bool
) -> None:
    study = open_study(tmp_path)
    study.prepare()
    search = StudySearch(study)
    failure = Failure(cause, "TrainingDiverged: a loss is not finite")
    point = search.suggest("bad")
    search.on_trial_complete("bad", failure_result(failure))
    (proposal,) = study.proposals()
    assert (proposal.point, proposal.state) == (point, TrialState.FAIL)
    assert proposal.failure == failure

    again = open_study(tmp_path)
    assert again.prepare() == (7 if tried_again else 6)
    assert (point in list(drive(again, 2))) == tried_again
    assert open_study(tmp_path).prepare() == (5 if tried_again else 4)


def test_study_keeps_lists_as_text_and_proposes_them_as_lists(tmp_path: Path) -> None:
    trained = "model.trainable"
    space = {trained: {"name": "choice", "values": [[], ["[012]", "{projector}"], None]}}
    warm = [{trained: ["[012]", "{projector}"]}, {trained: []}]
    study = open_study(tmp_path, space=space, warm_start=warm)
    study.prepare()
    search = StudySearch(study)
    for index in range(4):
        point = search.suggest(str(index))
        assert isinstance(point, dict)
        assert point[trained] in space[trained]["values"]
    assert [item.point for item in study.proposals()][:2] == warm
    again = open_study(tmp_path, space=space, warm_start=warm)
    assert again.prepare() == 7
    assert StudySearch(again).suggest("again") == warm[0]
    url = sqlite_url(tmp_path / "studies.db")
    (kept, *_) = optuna.load_study(study_name="search-1", storage=open_studies(url)).trials
    assert kept.params == {trained: '["[012]", "{projector}"]'}


METHODS = {
    "method": {"name": "choice", "values": [{"name": "npo"}, {"name": "rmu", "mask": "text"}]},
    BETA: {"name": "loguniform", "low": 0.05, "high": 2, "when": {"method.name": ["npo"]}},
    "method.hook_layer": {"name": "int", "low": 1, "high": 3, "when": {"method.name": ["rmu"]}},
}
BOUND = {"name": "refusals", "metric": "refusal_rate", "conditions": ["safe"], "at_most": 0.05}


def test_study_of_two_methods_asks_for_each_its_own_paths_and_keeps_bounds(tmp_path: Path) -> None:
    changes = {"space": METHODS, "warm_start": [], "constraints": [BOUND], "trials": 8}
    study = open_study(tmp_path, **changes)
    assert study.prepare() == 8
    search = StudySearch(study)
    points = []
    for index in range(8):
        points.append(point := search.suggest(str(index)))
        assert isinstance(point, dict)
        own = BETA if point["method"]["name"] == "npo" else "method.hook_layer"
        assert set(point) == {"method", own}
        rates = {"asr": 0.5, "useful": 0.5, "refusals": 0.04 + index / 100}
        search.on_trial_complete(str(index), {objective_key(k): v for k, v in rates.items()})
    assert {point["method"]["name"] for point in points if isinstance(point, dict)} == {
        "npo",
        "rmu",
    }
    assert [item.point for item in open_study(tmp_path, **changes).proposals()] == points
    storage = open_studies(sqlite_url(tmp_path / "studies.db"))
    kept = optuna.load_study(study_name="search-1", storage=storage).trials
    assert [max(trial.constraints.values()) <= 0 for trial in kept] == [True] * 2 + [False] * 6


def test_study_of_a_grid_tries_each_combination_once(tmp_path: Path) -> None:
    changes = {"space": METHODS, "warm_start": [], "trials": None, "sampler": {"name": "grid"}}
    study = open_study(tmp_path, **changes)
    assert study.prepare() == 6
    betas = [0.05, pytest.approx(0.1**0.5), 2]
    npo = [{"method": {"name": "npo"}, BETA: beta} for beta in betas]
    rmu = [{"method": {"name": "rmu", "mask": "text"}, "method.hook_layer": layer} for layer in (1, 2, 3)]  # fmt: skip
    search = StudySearch(study)
    assert [search.suggest(str(index)) for index in range(6)] == [*npo, *rmu]


def test_study_begins_no_point_once_its_hours_are_spent(tmp_path: Path) -> None:
    study = open_study(tmp_path, trials=None, hours=1e-9)
    assert list(drive(study, 3)) == []
    assert open_study(tmp_path, trials=None, hours=1e-9).prepare() == 0
    assert open_study(tmp_path, trials=None, hours=100.0).prepare() is None


def test_study_with_another_seed_proposes_other_points(tmp_path: Path) -> None:
    points = []
    for seed in (3, 4):
        (tmp_path / str(seed)).mkdir()
        study = open_study(tmp_path / str(seed), seed=seed)
        study.prepare()
        points.append(list(drive(study, 3))[2])
    assert points[0] != points[1]


def test_study_opens_in_optuna_dashboard_with_its_points_and_objectives(tmp_path: Path) -> None:
    study = open_study(tmp_path)
    study.prepare()
    list(drive(study, 3))
    app = optuna_dashboard.wsgi(f"sqlite:///{tmp_path / 'studies.db'}")
    with httpx.Client(transport=httpx.WSGITransport(app=app), base_url="http://dashboard") as http:
        (summary,) = http.get("/api/studies").raise_for_status().json()["study_summaries"]
        detail = http.get(f"/api/studies/{summary['study_id']}").raise_for_status().json()
    assert summary["study_name"] == "search-1"
    assert detail["objective_names"] == ["asr", "useful"]
    complete = [trial for trial in detail["trials"] if trial["state"] == "Complete"]
    assert len(complete) == 3
    assert {param["name"] for param in complete[0]["params"]} == {BETA, REDUCTION}


def test_studies_lie_beside_a_sqlite_store_and_inside_a_postgresql_one(
    tmp_path: Path,
) -> None:
    environment = {"SAFEMIRAGE_STORAGE": str(tmp_path)}
    own = studies_url(read_settings(environment=environment))
    assert own == sqlite_url(tmp_path / "studies.db")
    environment["SAFEMIRAGE_STORE_URL"] = "postgresql://me:secret@host/db"
    theirs = studies_url(read_settings(environment=environment))
    assert full(theirs) == "postgresql+psycopg://me:secret@host/db"
