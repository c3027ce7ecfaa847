"""Models, judges, suites and studies as callers see them."""

from collections.abc import Mapping
from typing import Any

import pytest

from safemirage.store import RunHandle, Store, run_once
from serve_app.backend import Trial
from serve_app.studies import mark_front
from tests.serve_app.conftest import Client
from tests.serve_app.world import MODEL, World, write_export, write_suite

pytestmark = pytest.mark.anyio
OBJECTIVES = [{"name": "attack", "direction": "min"}, {"name": "useful", "direction": "max"}]


def search(store: Store, trials: list[tuple[float, Mapping[str, float] | None]]) -> str:
    """A search as `ray_jobs.search` records it. A trial without objectives fails."""

    def work(_handle: RunHandle) -> dict[str, Any]:
        for number, (beta, objectives) in enumerate(trials):

            def trial(_handle: RunHandle, found: Any = objectives) -> dict[str, Any]:
                if found is None:
                    raise RuntimeError("out of memory")
                return {"objectives": dict(found)}

            options = {"name": f"trial {number}", "kind": "trial", "parent_id": "search-1"}
            config = {"overrides": {"method.beta": beta}}
            try:
                run_once(store, run_id=f"trial-{number}", config=config, work=trial, **options)
            except RuntimeError:
                continue
        return {}

    config = {"objectives": OBJECTIVES}
    return run_once(
        store, run_id="search-1", name="betas", kind="search", config=config, work=work
    ).id


async def test_models_carry_their_digests(client: Client) -> None:
    async with client() as http:
        listing = (await http.get("/v1/models")).json()
        one = (await http.get(f"/v1/models/{MODEL}")).json()
        missing = await http.get("/v1/models/nobody")
    assert listing["object"] == "list"
    assert listing["data"] == [one]
    assert (one["id"], one["object"], one["weights_digest"]) == (MODEL, "model", "ab" * 32)
    assert one["created"] == 1767323045
    assert {judge["name"] for judge in listing["judges"]} == {"keywords", "oracle", "useful"}
    assert missing.status_code == 404


async def test_models_leave_out_an_export_that_is_being_written(
    client: Client, world: World
) -> None:
    (world.storage.exports / "half").mkdir()
    write_export(world.storage, ".whole.but.not.in.place")
    async with client() as http:
        assert len((await http.get("/v1/models")).json()["data"]) == 1


async def test_suites_tell_how_large_they_are(client: Client, world: World) -> None:
    write_suite(world.storage, "large", questions=5)
    async with client() as http:
        data = (await http.get("/v1/suites")).json()["data"]
    assert data == [
        {"name": "large", "cases": {"unsafe_plain": 5, "safe_plain": 5}, "questions": 10},
        {"name": "toy", "cases": {"unsafe_plain": 3, "safe_plain": 3}, "questions": 6},
    ]


async def test_study_shows_trials_and_front(client: Client, world: World) -> None:
    study_id = search(
        world.store,
        [
            (0.1, {"attack": 0.0, "useful": 0.1}),
            (0.5, {"attack": 0.0, "useful": 0.9}),
            (0.9, None),
            (2.0, {"attack": 0.5, "useful": 1.0}),
        ],
    )
    async with client() as http:
        [summary] = (await http.get("/v1/studies")).json()["data"]
        study = (await http.get(f"/v1/studies/{study_id}")).json()
    assert summary["trial_states"] == {"failed": 1, "finished": 3}
    assert {key: study[key] for key in summary} == summary
    assert study["directions"] == {"attack": "min", "useful": "max"}
    trials = study["trials"]
    assert [trial["parameters"]["method.beta"] for trial in trials] == [0.1, 0.5, 0.9, 2.0]
    assert [trial["front"] for trial in trials] == [False, True, False, True]
    assert trials[1]["objectives"] == {"attack": 0.0, "useful": 0.9}
    assert (trials[2]["state"], trials[2]["objectives"]) == ("failed", {})
    assert "out of memory" in trials[2]["error"]


async def test_study_that_is_another_run_is_not_found(client: Client, world: World) -> None:
    search(world.store, [(0.1, {"attack": 0.0, "useful": 0.1})])
    async with client() as http:
        response = await http.get("/v1/studies/trial-0")
    assert response.status_code == 404
    assert "search-1" in response.json()["error"]["message"]


def test_front_waits_for_every_objective() -> None:
    def trial(state: str, **objectives: float) -> Trial:
        return Trial(
            id="t", state=state, parameters={}, objectives=objectives, front=False, error=None
        )

    trials = [
        trial("finished", a=1.0),
        trial("finished", a=2.0, b=1.0),
        trial("running", a=0.0, b=9.0),
    ]
    marked = mark_front(trials, {"a": "min", "b": "max"})
    assert [item.front for item in marked] == [False, True, False]
    assert mark_front(trials, {}) == trials
