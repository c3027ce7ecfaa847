"""The client against a service that is slow, busy, broken, or says no."""

import json
from collections.abc import Callable

import httpx
import pytest

from safemirage.evaluation.run.client import (
    AsyncEvaluationClient,
    EvaluationClient,
    EvaluationError,
)

Handler = Callable[[httpx.Request], httpx.Response]
BODY = {"model": "npo-1", "suite": "test", "judges": ["oracle"]}


def client_of(handler: Handler) -> EvaluationClient:
    return EvaluationClient(
        "http://service", "secret", patience_s=5, transport=httpx.MockTransport(handler)
    )


def answering(*answers: httpx.Response) -> tuple[Handler, list[httpx.Request]]:
    """A handler that gives one answer after the other, and the requests that it saw."""
    seen: list[httpx.Request] = []
    left = list(answers)

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return left.pop(0)

    return handler, seen


def evaluation(state: str, **more: object) -> httpx.Response:
    return httpx.Response(
        200, json={"id": "e1", "state": state, "progress": {"done": 0, "total": 4}, **more}
    )


def test_client_run_polls_until_the_end_and_reports_progress() -> None:
    handler, seen = answering(
        evaluation("queued"), evaluation("running"), evaluation("finished", rows=[{"value": 0.5}])
    )
    states: list[str] = []
    with client_of(handler) as client:
        found = client.run(BODY, on_progress=lambda item: states.append(item["state"]), poll_s=0)
    assert found["rows"] == [{"value": 0.5}]
    assert states == ["running", "finished"]
    assert [request.method for request in seen] == ["POST", "GET", "GET"]
    assert {request.headers["authorization"] for request in seen} == {"Bearer secret"}


def test_client_submit_twice_sends_one_idempotency_key_and_another_for_another_body() -> None:
    handler, seen = answering(*[evaluation("queued") for _ in range(3)])
    with client_of(handler) as client:
        client.submit(BODY)
        client.submit(dict(reversed(BODY.items())))
        client.submit({**BODY, "seed": 1})
    keys = [request.headers["idempotency-key"] for request in seen]
    assert keys[0] == keys[1] != keys[2]
    assert json.loads(seen[0].content) == BODY


def test_client_busy_service_is_asked_again_after_the_time_it_names() -> None:
    busy = httpx.Response(429, headers={"Retry-After": "0"}, json={})
    handler, seen = answering(busy, busy, evaluation("finished"))
    with client_of(handler) as client:
        assert client.submit(BODY)["state"] == "finished"
    assert len(seen) == 3


def test_client_broken_connection_is_tried_again() -> None:
    attempts: list[int] = []

    def handler(request: httpx.Request) -> httpx.Response:
        attempts.append(1)
        if len(attempts) == 1:
            raise httpx.ConnectError("refused")
        return evaluation("finished")

    with client_of(handler) as client:
        assert client.submit(BODY)["id"] == "e1"
    assert len(attempts) == 2


def test_client_refusal_is_raised_with_the_services_words_and_not_repeated() -> None:
    refusal = {
        "error": {"message": "suite: 'test' is unknown", "type": "x", "param": None, "code": None}
    }
    handler, seen = answering(httpx.Response(400, json=refusal))
    with (
        client_of(handler) as client,
        pytest.raises(EvaluationError, match="400: suite: 'test' is unknown"),
    ):
        client.run(BODY)
    assert len(seen) == 1


def test_client_failed_evaluation_is_raised_with_its_error() -> None:
    handler, _ = answering(evaluation("queued"), evaluation("failed", error="the weights are gone"))
    with (
        client_of(handler) as client,
        pytest.raises(EvaluationError, match="e1 failed: the weights are gone"),
    ):
        client.run(BODY, poll_s=0)


def test_client_answer_that_is_no_json_is_quoted() -> None:
    handler, _ = answering(httpx.Response(500, text="<html>oops</html>"))
    with client_of(handler) as client, pytest.raises(EvaluationError, match="500: <html>oops"):
        client.get("e1")


def test_client_follows_events_through_a_stream_that_breaks_off() -> None:
    def stream(*states: str) -> httpx.Response:
        lines = [
            f'event: progress\ndata: {{"id": "e1", "state": "{state}"}}\n\n' for state in states
        ]
        return httpx.Response(200, text="".join(lines))

    handler, seen = answering(
        evaluation("queued"),
        stream("queued", "running"),
        httpx.Response(503, headers={"Retry-After": "0"}),
        evaluation("running"),
        stream("running", "finished"),
    )
    with client_of(handler) as client:
        states = [one["state"] for one in client.events("e1")]
    assert states[-1] == "finished"
    assert states.count("finished") == 1
    assert [request.url.path[-6:] for request in seen] == [
        "ons/e1",
        "events",
        "ons/e1",
        "ons/e1",
        "events",
    ]


def test_client_reads_all_samples_page_by_page_and_cancels() -> None:
    def page(first: int, following: int | None) -> httpx.Response:
        data = [{"position": first}, {"position": first + 1}]
        return httpx.Response(200, json={"data": data, "next_offset": following})

    handler, seen = answering(page(0, 2), page(2, None), evaluation("cancelled"))
    with client_of(handler) as client:
        assert [one["position"] for one in client.samples("e1", page=2)] == [0, 1, 2, 3]
        assert client.cancel("e1")["state"] == "cancelled"
    assert [request.method for request in seen] == ["GET", "GET", "DELETE"]


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_async_client_runs_to_the_end_and_the_plain_one_works_inside_a_loop() -> None:
    handler, _ = answering(evaluation("queued"), evaluation("finished", rows=[]))
    transport = httpx.MockTransport(handler)
    async with AsyncEvaluationClient("http://service", transport=transport) as client:
        assert (await client.run(BODY, poll_s=0))["state"] == "finished"
    handler, _ = answering(evaluation("finished", rows=[]))
    with client_of(handler) as plain:
        assert plain.run(BODY)["state"] == "finished"


def test_client_waits_for_a_service_no_longer_than_it_was_told() -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    transport = httpx.MockTransport(handler)
    with (
        EvaluationClient("http://service", patience_s=0.1, transport=transport) as client,
        pytest.raises(EvaluationError, match="POST /v1/evaluations: refused"),
    ):
        client.submit(BODY)
