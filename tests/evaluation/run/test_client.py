"""The client against a service that is slow, busy, broken, or says no."""

import json
from collections.abc import Callable

import httpx
import pytest

from safemirage.evaluation.run.client import EvaluationClient, EvaluationError

Handler = Callable[[httpx.Request], httpx.Response]
BODY = {"model": "npo-1", "suite": "test", "judges": ["oracle"]}


def client_of(handler: Handler) -> EvaluationClient:
    return EvaluationClient("http://service", "secret", transport=httpx.MockTransport(handler))


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
