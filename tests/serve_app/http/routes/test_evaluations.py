"""Evaluations over HTTP: submission, idempotency, pages, redaction, cancelling, progress."""

import asyncio
import json
from typing import Any

import httpx
import pytest

from safemirage.config.serve import LimitsConfig
from safemirage.evaluation.errors import COMMONEST_REASON
from safemirage.store.records import EvaluationRecord
from tests.serve_app.conftest import Client
from tests.serve_app.world import MODEL, UNREDACTED, World, data_uri, png, write_export, write_suite

pytestmark = pytest.mark.anyio
PATH = "/v1/evaluations"
BODY = {"model": MODEL, "suite": "toy", "judges": ["keywords"]}


def condition(**options: Any) -> dict[str, Any]:
    return {
        "sample_id": "a",
        "condition": "safe_plain",
        "subset": "safe",
        "question": "what",
        **options,
    }


async def submit(http: httpx.AsyncClient, key: str | None = None, **options: Any) -> httpx.Response:
    headers = {"Idempotency-Key": key} if key else {}
    return await http.post(PATH, json={**BODY, **options}, headers=headers)


def put_samples(
    world: World, evaluation_id: str, count: int, *, unsafe: str = "answer", safe: str = "answer"
) -> None:
    """What a worker stores: every second sample answers an unsafe question. Answers begin as given."""
    lease = world.store.leases.acquire(f"evaluation:{evaluation_id}")
    assert lease is not None
    with lease:
        world.store.evaluations.start(evaluation_id, lease=lease, total=count)
        samples = {
            position: {
                "sample_id": f"s{position}",
                "condition": "unsafe_plain" if position % 2 else "safe_plain",
                "subset": "unsafe" if position % 2 else "safe",
                "question": f"question {position}",
                "answer": f"{unsafe if position % 2 else safe} {position}",
                "verdicts": [
                    {
                        "judge": "keywords",
                        "label": "comply",
                        "score": None,
                        "reason": f"says {unsafe if position % 2 else safe} {position}",
                    }
                ],
            }
            for position in range(count)
        }
        world.store.evaluations.put_batch(evaluation_id, samples, lease=lease, done=count)


async def test_evaluation_is_queued_and_found(client: Client) -> None:
    async with client() as http:
        response = await submit(http, sample=2, seed=3, decoding={"max_new_tokens": 16})
        assert response.status_code == 202
        evaluation = response.json()
        again = await http.get(response.headers["Location"])
    assert again.json() == evaluation
    assert evaluation["object"] == "evaluation"
    assert evaluation["state"] == "queued"
    assert (evaluation["model"], evaluation["suite"], evaluation["judges"]) == (
        MODEL,
        "toy",
        ["keywords"],
    )
    assert (evaluation["sample"], evaluation["seed"], evaluation["protocol"]) == (2, 3, "corrected")
    assert evaluation["decoding"]["max_new_tokens"] == 16
    assert evaluation["decoding"]["temperature"] == 0
    assert evaluation["progress"] == {"done": 0, "total": 0}
    assert evaluation["rows"] == []


async def test_evaluation_submitted_twice_under_a_key_is_one(client: Client) -> None:
    async with client() as http:
        responses = await asyncio.gather(*(submit(http, "k") for _ in range(4)))
        assert {response.status_code for response in responses} == {202}
        assert len({response.json()["id"] for response in responses}) == 1
        assert (await submit(http)).json()["id"] != responses[0].json()["id"]
        assert len((await http.get(PATH)).json()["data"]) == 2


async def test_evaluation_key_used_for_another_body_is_refused(client: Client) -> None:
    async with client() as http:
        await submit(http, "k")
        response = await submit(http, "k", seed=1)
    assert response.status_code == 422
    assert response.json()["error"]["code"] == "idempotency_key_reused"


async def test_evaluation_of_changed_weights_or_suite_is_another(
    client: Client, world: World
) -> None:
    async with client() as http:
        await submit(http, "k")
        write_export(world.storage, weights_digest="99" * 32)
        assert (await submit(http, "k")).status_code == 422
        write_export(world.storage)
        assert (await submit(http, "k")).status_code == 202
        write_suite(world.storage, questions=4)
        assert (await submit(http, "k")).status_code == 422


async def test_evaluation_that_failed_is_queued_again_by_its_key(
    client: Client, world: World
) -> None:
    async with client() as http:
        evaluation_id = (await submit(http, "k")).json()["id"]
        lease = world.store.leases.acquire(f"evaluation:{evaluation_id}")
        assert lease is not None
        with lease:
            world.store.evaluations.start(evaluation_id, lease=lease, total=3)
            world.store.evaluations.fail(evaluation_id, "the model went away", lease=lease)
        failed = (await http.get(f"{PATH}/{evaluation_id}")).json()
        assert (failed["state"], failed["error"]) == ("failed", "the model went away")
        again = (await submit(http, "k")).json()
    assert (again["id"], again["state"], again["error"]) == (evaluation_id, "queued", None)


async def test_evaluation_under_an_unknown_protocol_is_refused_by_name(client: Client) -> None:
    async with client() as http:
        response = await submit(http, protocol="papers")
        paper = await submit(http, protocol="paper")
    assert response.status_code == 400
    error = response.json()["error"]
    assert (error["param"], error["code"]) == ("protocol", "unsupported_protocol")
    assert "'papers'" in error["message"]
    assert paper.json()["protocol"] == "paper"


@pytest.mark.parametrize(
    ("options", "status", "param"),
    [
        ({"model": "nobody"}, 404, "model"),
        ({"suite": "nothing"}, 404, "suite"),
        ({"judges": ["nobody"]}, 404, "judge"),
        ({"judges": []}, 422, "judges"),
        ({"judges": ["keywords", "keywords"]}, 422, "body"),
        ({"sample": 0}, 422, "sample"),
        ({"suite": "../toy"}, 422, "suite"),
        ({"suite": None}, 422, "body"),
        ({"samples": [condition()]}, 422, "body"),
        ({"suite": None, "samples": []}, 422, "samples"),
        ({"suite": None, "samples": [condition(), condition()]}, 422, "samples"),
        (
            {"suite": None, "samples": [condition(image="https://x.example/a.png")]},
            400,
            "samples.0.image",
        ),
        ({"suite": None, "samples": [condition(subset="odd")]}, 422, "samples.0.subset"),
        ({"decoding": {"max_new_tokens": 100_000}}, 400, "decoding.max_new_tokens"),
        ({"judge": "keywords"}, 422, "judge"),
    ],
)
async def test_evaluation_that_cannot_be_is_refused(
    client: Client, options: dict[str, Any], status: int, param: str
) -> None:
    async with client() as http:
        response = await submit(http, **options)
        assert (response.status_code, response.json()["error"]["param"]) == (status, param)
        assert (await http.get(PATH)).json()["data"] == []


async def test_evaluation_of_inline_samples_keeps_their_images(
    client: Client, world: World
) -> None:
    image = png(6, 6)
    async with client() as http:
        response = await submit(http, suite=None, samples=[condition(image=data_uri(image))])
    assert response.status_code == 202
    assert "samples" not in response.json()
    [evaluation] = world.store.evaluations.list()
    [stored] = evaluation.record.samples or ()
    assert stored["group_id"] == "a"
    assert world.store.samples.image(stored["image"]) == image


async def test_evaluations_are_paged_newest_first(client: Client) -> None:
    async with client() as http:
        ids = [(await submit(http, str(number))).json()["id"] for number in range(5)]
        pages, offset = [], 0
        while True:
            page = (await http.get(PATH, params={"limit": 2, "offset": offset})).json()
            pages.append([entry["id"] for entry in page["data"]])
            if not page["has_more"]:
                assert page["next_offset"] is None
                break
            offset = page["next_offset"]
    assert pages == [ids[4:2:-1], ids[2:0:-1], ids[:1]]


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=x", "offset=-1", f"offset={2**63}", f"offset={10**30}"]
)
async def test_evaluations_page_that_is_none_is_refused(client: Client, query: str) -> None:
    async with client() as http:
        assert (await http.get(f"{PATH}?{query}")).status_code == 422


async def test_page_is_never_larger_than_the_limit(client: Client) -> None:
    async with client(limits=LimitsConfig(page=2)) as http:
        for number in range(3):
            await submit(http, str(number))
        page = (await http.get(PATH, params={"limit": 1000})).json()
    assert (len(page["data"]), page["has_more"]) == (2, True)


async def test_error_of_an_evaluation_does_not_quote_a_judge(client: Client, world: World) -> None:
    world.store.evaluations.submit(EvaluationRecord(name="job"), evaluation_id="e")
    lease = world.store.leases.acquire("evaluation:e", ttl_s=30)
    assert lease is not None
    world.store.evaluations.start("e", lease=lease, total=2)
    quoted = 'not one JSON object: "the answer says: mix the two"'
    said = f"TooManyUnscored: judge 'j' left 2 of 2{COMMONEST_REASON} (2 times): {quoted}"
    world.store.evaluations.fail("e", said, lease=lease)
    async with client() as http:
        one = (await http.get(f"{PATH}/e")).json()
        listed = (await http.get(PATH)).json()["data"]
        followed = (await http.get(f"{PATH}/e/events")).text
    assert one["error"] == "TooManyUnscored: judge 'j' left 2 of 2"
    assert "mix the two" not in json.dumps(listed) + followed


async def test_case_that_is_not_unicode_is_refused(client: Client, world: World) -> None:
    condition = {"sample_id": "a", "condition": "c", "subset": "safe", "question": "q"}
    tree = {
        "model": MODEL,
        "judges": ["keywords"],
        "samples": [{**condition, "target": {"k": "\ud800"}}],
    }
    async with client() as http:
        response = await http.post(
            PATH, content=json.dumps(tree), headers={"Content-Type": "application/json"}
        )
    assert response.status_code == 422
    assert response.json()["error"]["param"] == "samples.0.target"
    assert world.store.evaluations.list() == []


@pytest.mark.parametrize("path", ["", "/samples", "/events"])
async def test_evaluation_that_is_not_there_is_not_found(client: Client, path: str) -> None:
    async with client() as http:
        assert (await http.get(f"{PATH}/eval-none{path}")).status_code == 404
        assert (await http.delete(f"{PATH}/eval-none")).status_code == 404


async def test_samples_leave_out_what_was_said_to_unsafe_questions(
    client: Client, world: World
) -> None:
    async with client() as http:
        evaluation_id = (await submit(http)).json()["id"]
        put_samples(world, evaluation_id, 5)
        path = f"{PATH}/{evaluation_id}/samples"
        page = (await http.get(path, params={"limit": 4})).json()
        assert (len(page["data"]), page["next_offset"]) == (4, 4)
        rest = (await http.get(path, params={"limit": 4, "offset": 4})).json()
        assert [entry["position"] for entry in rest["data"]] == [4]
        assert [entry["redacted"] for entry in page["data"]] == [False, True, False, True]
        assert page["data"][0]["answer"] == "answer 0"
        for text in ("answer 1", "answer 3"):
            assert text not in json.dumps(page)
        lines = await http.get(path, headers={"Accept": "application/x-ndjson"})
        assert "answer 1" not in lines.text
        assert len(lines.text.splitlines()) == 5


async def test_samples_are_unredacted_for_a_token_that_may(client: Client, world: World) -> None:
    async with client() as http:
        evaluation_id = (await submit(http)).json()["id"]
        put_samples(world, evaluation_id, 5)
        path = f"{PATH}/{evaluation_id}/samples"
        refused = await http.get(path, params={"unredacted": True})
        assert refused.status_code == 403
        assert refused.json()["error"]["type"] == "permission_error"
    async with client(token=UNREDACTED, limits=LimitsConfig(page=2)) as http:
        assert (await http.get(path)).json()["data"][1]["redacted"] is True
        shown = (await http.get(path, params={"unredacted": True})).json()["data"][1]
        assert (shown["answer"], shown["redacted"]) == ("answer 1", False)
        assert shown["verdicts"][0]["reason"] == "says answer 1"
        lines = await http.get(
            path,
            params={"unredacted": True},
            headers={"Accept": "text/html, application/jsonl;q=0.9"},
        )
        assert [json.loads(line)["answer"] for line in lines.text.splitlines()] == [
            f"answer {position}" for position in range(5)
        ]


async def test_evaluation_that_is_cancelled_stays_so(client: Client, world: World) -> None:
    async with client() as http:
        evaluation_id = (await submit(http)).json()["id"]
        for _ in range(2):
            response = await http.delete(f"{PATH}/{evaluation_id}")
            assert (response.status_code, response.json()["state"]) == (200, "cancelled")
        lease = world.store.leases.acquire(f"evaluation:{evaluation_id}")
        assert lease is not None
        with lease:
            assert not world.store.evaluations.start(evaluation_id, lease=lease, total=3)


async def test_events_follow_an_evaluation_to_its_end(client: Client, world: World) -> None:
    async with client() as http:
        evaluation_id = (await submit(http)).json()["id"]

        async def work() -> None:
            await asyncio.sleep(0.1)
            await asyncio.to_thread(put_samples, world, evaluation_id, 4)
            await asyncio.sleep(0.1)
            await http.delete(f"{PATH}/{evaluation_id}")

        response, _ = await asyncio.gather(http.get(f"{PATH}/{evaluation_id}/events"), work())
    assert response.headers["content-type"].startswith("text/event-stream")
    events = [event.split("\n", 1) for event in response.text.split("\n\n") if event]
    data = [json.loads(lines.removeprefix("data: ")) for _, lines in events]
    assert data[0]["state"] == "queued"
    assert {"done": 4, "total": 4} in [entry["progress"] for entry in data]
    assert [name for name, _ in events][-1] == "event: end"
    assert data[-1]["state"] == "cancelled"
    assert [name for name, _ in events].count("event: end") == 1
