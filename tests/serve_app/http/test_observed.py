"""What operators see: metrics, one JSON line a request, readiness; and never a word of a question or an answer."""

import json
import logging
import sys
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from safemirage.config.loading.load import ConfigError
from safemirage.config.serve import ServeConfig
from safemirage.settings import Settings
from safemirage.store import open_store
from serve_app.http.observed import JsonLines
from serve_app.preflight import Finding, check_start, listening
from tests.serve_app.conftest import Client
from tests.serve_app.world import MODEL, World

pytestmark = pytest.mark.anyio
CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "harmless words"}]}


async def test_metrics_count_requests_tokens_queue_and_evaluations(
    client: Client, world: World
) -> None:
    async def counts() -> dict[str, float]:
        return {"asked": 3, "known": 5, "unscored": 1}

    async with client(counts=counts) as http:
        await http.post("/v1/chat/completions", json=CHAT)
        await http.get("/v1/models/nobody")
        await http.post(
            "/v1/evaluations", json={"model": MODEL, "suite": "toy", "judges": ["keywords"]}
        )
        items = [{"question": "q", "answer": text} for text in ("", "yes")]
        await http.post("/v1/judgements", json={"judge": "keywords", "items": items})
        moderated = (
            await http.post("/v1/moderations", json={"input": ["", "yes", "sorry"]})
        ).json()
        text = (await http.get("/metrics")).text
    found = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert found["safemirage_requests_total", "/v1/chat/completions", "200"] == 1
    assert found["safemirage_requests_total", "/v1/models/{model_id}", "404"] == 1
    assert found["safemirage_tokens_total", "prompt"] == len("harmless words")
    assert found["safemirage_tokens_total", "answer"] == len("harmless words")
    assert found["safemirage_evaluations", "queued"] == 1
    assert found[("safemirage_unscored_total",)] == 2
    assert [result["flagged"] for result in moderated["results"]] == [None, True, False]
    assert moderated["results"][0]["unscored"] == "no answer"
    assert found["safemirage_evaluation_samples", "known"] == 5
    assert found[("safemirage_queue_requests",)] == 0
    assert "nobody" not in text


async def test_metrics_need_a_token_and_readiness_none(client: Client) -> None:
    async with client(token=None) as http:
        assert (await http.get("/metrics")).status_code == 401
        assert (await http.get("/readyz")).status_code == 200


async def test_readiness_shows_findings_and_is_lost_with_the_storage(
    client: Client, world: World
) -> None:
    findings = [Finding(what="transport", fine=False, found="0.0.0.0: in clear text")]
    async with client(findings=findings) as http:
        ready = (await http.get("/readyz")).json()
        moved = world.storage.root.rename(world.storage.root.with_name("gone"))
        try:
            lost = await http.get("/readyz")
            alive = await http.get("/healthz")
        finally:
            moved.rename(world.storage.root)
    assert ready["status"] == "ready"
    assert ready["checks"] == [
        {"what": "transport", "fine": False, "found": "0.0.0.0: in clear text"}
    ]
    assert (lost.status_code, lost.json()["parts"]["storage"]) == (503, False)
    assert alive.status_code == 200


async def test_each_request_has_an_id_and_a_line_without_a_word_of_it(
    client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "safemirage.requests")
    async with client() as http:
        given = await http.post("/v1/chat/completions", json=CHAT, headers={"X-Request-Id": "r-1"})
        made = await http.get("/v1/models", headers={"X-Request-Id": "no id\t"})
    assert given.headers["X-Request-Id"] == "r-1"
    lines = [json.loads(JsonLines().format(record)) for record in caplog.records]
    assert [line["request_id"] for line in lines] == ["r-1", made.headers["X-Request-Id"]]
    assert (lines[0]["route"], lines[0]["status"], lines[0]["caller"]) == (
        "/v1/chat/completions",
        200,
        "reader",
    )
    assert "harmless" not in json.dumps(lines)


def test_exception_is_logged_by_its_kind_and_place_alone() -> None:
    try:
        raise ValueError("the answer says: mix the two")
    except ValueError:
        info = sys.exc_info()
    record = logging.LogRecord("serve_app", logging.ERROR, "f", 1, "a request failed", None, info)
    text = JsonLines().format(record)
    assert json.loads(text)["exception"] == "ValueError"
    assert "test_observed.py" in text
    assert "mix the two" not in text


def test_start_is_refused_on_open_ground_unless_that_is_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings.at(tmp_path)
    open_store(settings.store_url).close()
    database = Path(str(settings.store_url.database))
    database.chmod(0o644)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with pytest.raises(ConfigError, match=r"ray's token mode: RAY_AUTH_MODE=disabled; export"):
        check_start(ServeConfig(), settings)
    assert database.stat().st_mode & 0o077 == 0, "the service's own files are closed by it"
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    with pytest.raises(ConfigError, match=r"transport: 0\.0\.0\.0: reachable .* in clear text"):
        check_start(ServeConfig(host="0.0.0.0"), settings)
    assert all(one.fine for one in check_start(ServeConfig(), settings))
    found = check_start(ServeConfig(host="0.0.0.0", insecure=True), settings)
    assert [one.what for one in found if not one.fine] == ["transport"]
    settings.storage.tokens.write_text("[]")
    settings.storage.tokens.chmod(0o644)
    with pytest.raises(ConfigError, match=r"tokens\.json: other users may read it; chmod 600"):
        check_start(ServeConfig(), settings)


def test_ports_that_listen_are_known_with_their_addresses() -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as bound:
        assert ("127.0.0.1", bound.getsockname()[1]) in listening()
