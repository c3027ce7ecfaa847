"""Models, judges, suites and studies as callers see them."""

import json

import pytest

from safemirage.config.judges import BUILT_IN_JUDGES
from safemirage.config.plan import load_search
from serve_app.resources import Trial
from serve_app.studies import mark_front
from tests.serve_app.conftest import Client
from tests.serve_app.study import ATTACK_AND_USEFUL, SEARCH, STUDY, record_study
from tests.serve_app.world import MODEL, World, write_export, write_suite

pytestmark = pytest.mark.anyio


async def test_models_carry_their_digests(client: Client) -> None:
    async with client() as http:
        listing = (await http.get("/v1/models")).json()
        one = (await http.get(f"/v1/models/{MODEL}")).json()
        missing = await http.get("/v1/models/nobody")
    assert listing["object"] == "list"
    assert listing["data"] == [one]
    assert (one["id"], one["object"], one["weights_digest"]) == (MODEL, "model", "ab" * 32)
    assert one["created"] == 1767323045
    assert {judge["name"] for judge in listing["judges"]} == set(BUILT_IN_JUDGES)
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
    ready = {"state": "ready", "problem": None}
    assert data == [
        {
            "name": "large",
            "conditions": {"unsafe_plain": 5, "safe_plain": 5},
            "questions": 10,
            **ready,
        },
        {
            "name": "toy",
            "conditions": {"unsafe_plain": 3, "safe_plain": 3},
            "questions": 6,
            **ready,
        },
    ]


async def test_study_shows_trials_and_front(client: Client, world: World) -> None:
    study_id = record_study(
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
    record_study(world.store, [(0.1, {"attack": 0.0, "useful": 0.1})])
    async with client() as http:
        response = await http.get(f"/v1/studies/{STUDY}-0.1")
    assert response.status_code == 404
    assert STUDY in response.json()["error"]["message"]


def test_front_waits_for_every_objective_and_keeps_the_bounds() -> None:
    def trial(state: str, refusals: float = 0.0, **objectives: float) -> Trial:
        rates = {"refusals": refusals}
        return Trial(id="t", state=state, objectives=objectives, constraints=rates, error=None)

    trials = [
        trial("finished", attack=0.1),
        trial("finished", attack=0.2, useful=0.5),
        trial("finished", 0.06, attack=0.1, useful=0.6),
        trial("running", attack=0.0, useful=0.9),
    ]
    bound = {
        "name": "refusals", "metric": "refusal_rate", "conditions": ["safe_plain"], "at_most": 0.05
    }  # fmt: skip
    overrides = [
        f"objectives={json.dumps(ATTACK_AND_USEFUL)}",
        f"constraints={json.dumps([bound])}",
    ]
    marked = mark_front(trials, load_search(SEARCH, overrides).config)
    assert [item.front for item in marked] == [False, True, False, False]


async def test_study_whose_record_cannot_be_read_spoils_no_listing(
    client: Client, world: World
) -> None:
    record_study(world.store, [(0.1, {"attack": 0.0, "useful": 0.1})])
    world.store.runs.register("odd", name="odd", kind="search", config={"objectives": []})
    async with client() as http:
        odd, sound = (await http.get("/v1/studies")).json()["data"]
    assert "record of odd: objectives: unknown" in odd["error"]
    assert (odd["directions"], sound["error"]) == ({}, None)
