"""The whole service on a real Ray Serve, over real HTTP: the openai client, evaluations, a judge that is a model."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from ray_jobs.cluster.head import ClusterAddress
from safemirage.config.generators import DecodingConfig
from safemirage.config.loading.load import dump_yaml
from safemirage.evaluation.generators.transformers import TransformersGenerator
from safemirage.evaluation.judges.build import built_in_judge
from safemirage.evaluation.run.client import EvaluationError
from safemirage.evaluation.run.evaluate import EvaluationSpec, evaluate
from safemirage.evaluation.suites.folder import load_suite
from safemirage.evaluation.types import ImageInput, Sample
from safemirage.settings import Settings
from safemirage.store import open_store
from tests.cluster.serving import (
    COLOURS,
    CONFIG,
    JUDGES,
    MODELS,
    TOKEN,
    Service,
    dashboard,
    replica_pid,
    sample_tree,
    write_suite,
    write_tiny_export,
)
from tests.tiny import tiny_image

pytestmark = pytest.mark.timeout(420)


@pytest.fixture(scope="module")
def service(cluster: ClusterAddress, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Started by its own command, in a process of its own: Ray reads a cluster's token when it is imported."""
    folder = tmp_path_factory.mktemp("service")
    storage = Settings.at(folder / "storage").storage
    for seed, name in enumerate(MODELS):
        write_tiny_export(storage, name, seed)
    write_suite(storage)
    file = folder / "serve.yaml"
    file.write_text(dump_yaml(CONFIG))
    environment = {
        **os.environ,
        **cluster.environment,
        "SAFEMIRAGE_STORAGE": str(storage.root),
        "SAFEMIRAGE_API_TOKEN": f"chat,judge,evaluate,read,unredacted {TOKEN}",
    }
    command = [sys.executable, "-m", "safemirage.cli", "serve", str(file), "port=0"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().partition("/  (")[0]
        try:
            assert url.startswith("http://127.0.0.1:"), f"no URL; exit code {process.poll()}"
            yield Service(url, storage, cluster)
        finally:
            process.terminate()
            assert process.wait(timeout=90) == 0


def in_process(service: Service, samples: list[Sample], folder: Path) -> tuple[Any, list[Any]]:
    """Rows and answers of the same evaluation by the library alone, with a store of its own."""
    generator = TransformersGenerator.load(service.storage.exports / MODELS[0])
    judges = [built_in_judge(name) for name in JUDGES]
    spec = EvaluationSpec(id="alone", model=MODELS[0], decoding=DecodingConfig(max_new_tokens=16))
    with open_store(f"sqlite:///{folder / 'alone.db'}") as store:
        ended = asyncio.run(evaluate(spec, samples, generator, judges, store=store))
        evaluated = store.evaluations.samples("alone")
    generator.close()
    return ended.row_trees, [(sample["sample_id"], sample["answer"]) for sample in evaluated]


def question(text: str = "what is this", colour: str = "red") -> list[Any]:
    uri = ImageInput(tiny_image(colour)).data_uri
    return [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": text},
                {"type": "image_url", "image_url": {"url": uri}},
            ],
        }
    ]


def test_openai_client_chats_unchanged(service: Service) -> None:
    client = service.openai()
    assert [model.id for model in client.models.list()] == list(MODELS)
    options: dict[str, Any] = {"model": MODELS[0], "temperature": 0, "max_tokens": 8}
    whole = client.chat.completions.create(messages=question(), **options)
    text = whole.choices[0].message.content
    assert whole.usage is not None
    assert 0 < whole.usage.completion_tokens <= 8
    assert whole.choices[0].finish_reason in {"stop", "length"}
    chunks = client.chat.completions.create(
        messages=question(), stream=True, stream_options={"include_usage": True}, **options
    )
    streamed, usage = "", None
    for chunk in chunks:
        usage = chunk.usage or usage
        streamed += "".join(choice.delta.content or "" for choice in chunk.choices)
    assert streamed == text
    assert usage == whole.usage
    several = client.chat.completions.create(
        messages=[
            *question(),
            {"role": "assistant", "content": "a cup"},
            *question("and this?", "blue"),
        ],
        n=2,
        logprobs=True,
        top_logprobs=2,
        seed=2**63,
        stop=["\x00"],
        frequency_penalty=0.5,
        model=MODELS[0],
        max_tokens=8,
    )
    assert len({choice.message.content for choice in several.choices}) == 2
    for choice in several.choices:
        assert choice.logprobs is not None
        assert choice.logprobs.content is not None
        assert all(len(token.top_logprobs) == 2 for token in choice.logprobs.content)
    continued = client.completions.create(prompt=["what", "who"], **options)
    assert [choice.index for choice in continued.choices] == [0, 1]
    responded = client.responses.create(
        model=MODELS[0], input="what is this", temperature=0, max_output_tokens=8
    )
    events = list(
        client.responses.create(
            model=MODELS[0], input="what is this", temperature=0, max_output_tokens=8, stream=True
        )
    )
    assert "".join(one.delta for one in events if one.type == "response.output_text.delta") == (
        responded.output_text
    )
    assert events[-1].type in {"response.completed", "response.incomplete"}
    [flagged] = client.moderations.create(input="Sure, do this.").results
    assert flagged.categories.to_dict()["refuse"] is False
    assert client.models.retrieve(MODELS[0]).id == MODELS[0]
    text_only = client.chat.completions.create(
        messages=[{"role": "user", "content": "hello"}], **options
    )
    assert text_only.choices[0].message.role == "assistant"


def test_openai_client_reads_the_errors(service: Service) -> None:
    with pytest.raises(openai.AuthenticationError):
        service.openai("another-token-0123456789").models.list()
    client = service.openai()
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="nobody", messages=question())
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError, match="not fetched"):
        client.chat.completions.create(
            model=MODELS[0],
            messages=[
                {
                    "role": "user",
                    "content": [
                        {"type": "image_url", "image_url": {"url": "http://127.0.0.1/a.png"}}
                    ],
                }
            ],
        )
    with pytest.raises(openai.BadRequestError, match="context") as too_long:
        client.chat.completions.create(model=MODELS[0], messages=question("x" * 2000), max_tokens=8)
    assert too_long.value.code == "request_rejected"
    assert too_long.value.body["message"].startswith("a prompt of ")  # and no traceback


def test_chats_in_crowds_equal_chats_alone(service: Service) -> None:
    async def crowd() -> list[str | None]:
        client = openai.AsyncOpenAI(base_url=f"{service.url}/v1", api_key=TOKEN, max_retries=0)
        async with client:
            deltas = await client.chat.completions.create(
                model=MODELS[0], messages=question(), stream=True, temperature=0, max_tokens=8
            )
            said = [one async for one in deltas if one.choices[0].delta.content]
            assert len(said) > 1
            answers = await asyncio.gather(
                *(
                    client.chat.completions.create(
                        model=MODELS[0],
                        messages=question(f"what is number {number}", COLOURS[number % 3]),
                        temperature=0,
                        max_tokens=8,
                    )
                    for number in range(48)
                )
            )
        return [answer.choices[0].message.content for answer in answers]

    together = asyncio.run(crowd())
    client = service.openai()
    for number in range(0, 48, 12):
        alone = client.chat.completions.create(
            model=MODELS[0],
            messages=question(f"what is number {number}", COLOURS[number % 3]),
            temperature=0,
            max_tokens=8,
        )
        assert together[number] == alone.choices[0].message.content


def test_slow_heads_and_bodies_are_not_waited_for(service: Service) -> None:
    host, port = service.url.removeprefix("http://").split(":")
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {TOKEN}\r\n"
        "Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
    )

    def said(start: str) -> bytes:
        with socket.create_connection((host, int(port)), timeout=60) as connection:
            connection.sendall(start.encode())
            pieces = iter(lambda: connection.recv(4096), b"")
            return b"".join(pieces)

    assert said("") == b""
    assert said(head[:40]) == b""
    assert said(head).startswith(b"HTTP/1.1 408")


def test_no_deployment_backs_off_below_what_the_api_admits(service: Service) -> None:
    details = dashboard(service, "/api/serve/applications/")
    deployments = details["applications"]["safemirage"]["deployments"]
    assert set(deployments) == {"Api", "Checkpoints", "Evaluations"}
    for deployment in deployments.values():
        assert deployment["deployment_config"]["max_ongoing_requests"] >= 64


def test_models_take_turns_where_one_fits(service: Service) -> None:
    client = service.openai()
    answers = {}
    for model in (*MODELS, *MODELS):
        answer = client.chat.completions.create(
            model=model, messages=question(), temperature=0, max_tokens=8
        )
        text = answer.choices[0].message.content
        assert answers.setdefault(model, text) == text
    assert len(set(answers.values())) == 2


def test_judgements_by_rule_and_by_model(service: Service) -> None:
    items = [
        {"question": "what is this", "answer": "I'm sorry, I cannot."},
        {
            "question": "what is this",
            "answer": "A red cube.",
            "target": {"kind": "cube", "colour": "red", "unsafe": "true"},
        },
        {"question": "no answer"},
    ]
    with service.http() as http:
        ruled = http.post("/v1/judgements", json={"judge": "keywords", "items": items}).json()
        asked = http.post("/v1/judgements", json={"judge": "small", "items": items})
    assert ruled["data"][0]["verdict"]["label"] == "refuse"
    assert ruled["data"][1]["verdict"]["label"] != "refuse"
    assert ruled["data"][2]["error"]["param"] == "items.2.answer"
    # Random weights say no verdict; what cannot be read is never counted as one.
    assert asked.status_code == 200, asked.text
    verdicts = [entry["verdict"] for entry in asked.json()["data"][:2]]
    assert [verdict["label"] for verdict in verdicts] == ["unscored", "unscored"]
    assert all(verdict["reason"] for verdict in verdicts)


def test_evaluation_of_a_suite_equals_the_librarys_own(service: Service, tmp_path: Path) -> None:
    body = {
        "model": MODELS[0],
        "suite": "tiny",
        "judges": JUDGES,
        "decoding": {"max_new_tokens": 16},
    }
    seen: list[int] = []
    with service.evaluations() as client:
        ended = client.run(body, on_progress=lambda item: seen.append(item["progress"]["done"]))
        assert client.run(body)["id"] == ended["id"]
    with service.http() as http:
        evaluated = http.get(f"/v1/evaluations/{ended['id']}/samples?unredacted=true").json()[
            "data"
        ]
    samples = load_suite(service.storage.suites / "tiny")
    rows, answers = in_process(service, samples, tmp_path)
    assert ended["rows"] == rows
    assert [(sample["sample_id"], sample["answer"]) for sample in evaluated] == answers
    assert ended["progress"] == {"done": 12, "total": 12}


def test_evaluation_with_a_judge_that_is_a_model_shows_what_is_unscored(service: Service) -> None:
    body = {
        "model": MODELS[0],
        "suite": "tiny",
        "judges": ["small"],
        "sample": 2,
        "decoding": {"max_new_tokens": 8},
    }
    with service.evaluations() as client:
        ended = client.run(body)
    # Beside a judge that cannot tell degenerate answers, one that can is asked by itself.
    assert {row["judge"] for row in ended["rows"]} == {"small", "degenerate"}
    for row in (row for row in ended["rows"] if row["judge"] == "small"):
        assert row["unscored"] > 0
        assert (row["value"], row["n"]) == (None, 0)


def test_evaluation_of_a_broken_export_fails_with_the_reason(service: Service) -> None:
    name = "broken-000000000000"
    write_tiny_export(service.storage, name, 7)
    (service.storage.exports / name / "config.json").write_text("{}")
    body = {"model": name, "suite": "tiny", "judges": ["keywords"]}
    with (
        service.evaluations() as client,
        pytest.raises(EvaluationError, match=r"config\.json was changed"),
    ):
        client.run(body)


@pytest.mark.parametrize("deployment", ["Evaluations", "Checkpoints"])
def test_evaluation_survives_the_death_of_a_replica(
    service: Service, tmp_path: Path, deployment: str
) -> None:
    trees = [
        {**sample_tree(number), "question": f"{deployment}: tell of number {number}"}
        for number in range(80)
    ]
    pid = replica_pid(service, deployment)
    ended: dict[str, Any] = {}
    with service.evaluations() as client, service.http() as http:
        body = {
            "model": MODELS[0],
            "samples": [
                {**tree, "image": ImageInput(tiny_image(COLOURS[number % 3])).data_uri}
                for number, tree in enumerate(trees)
            ],
            "judges": JUDGES,
            "decoding": {"max_new_tokens": 16},
        }
        evaluation_id = client.submit(body)["id"]
        worker = threading.Thread(target=lambda: ended.update(client.run(body)))
        worker.start()
        done = 0
        while done < 8:
            done = http.get(f"/v1/evaluations/{evaluation_id}").json()["progress"]["done"]
            time.sleep(0.02)
        os.kill(pid, signal.SIGKILL)
        worker.join(timeout=180)
        killed_at = done
        assert killed_at < 80
        evaluated = http.get(
            f"/v1/evaluations/{evaluation_id}/samples", params={"unredacted": True, "limit": 100}
        ).json()["data"]
    assert ended["state"] == "finished"
    assert replica_pid(service, deployment) != pid
    samples = [
        Sample(**tree, image=ImageInput(tiny_image(COLOURS[number % 3])))
        for number, tree in enumerate(trees)
    ]
    rows, answers = in_process(service, samples, tmp_path)
    assert ended["rows"] == rows
    assert [(sample["sample_id"], sample["answer"]) for sample in evaluated] == answers


def test_pages_come_without_a_token(service: Service) -> None:
    for path in ("/", "/docs", "/healthz"):
        assert httpx.get(f"{service.url}{path}").status_code == 200
    assert httpx.get(f"{service.url}/v1/models").status_code == 401


def test_operators_are_told_of_the_whole_service(service: Service) -> None:
    service.openai().chat.completions.create(
        model=MODELS[0], messages=question(), temperature=0, max_tokens=4
    )
    with service.http() as http:
        ready = http.get("/readyz").json()
        text = http.get("/metrics").raise_for_status().text
    assert ready["status"] == "ready"
    found = {check["what"]: check for check in ready["checks"]}
    assert found["ray's token mode"]["found"] == "RAY_AUTH_MODE=token"
    assert all(check["fine"] for check in found.values())
    assert "safemirage_batch_rows_count" in text
    # Told by the replica that runs evaluations.
    assert 'safemirage_evaluation_samples{kind="asked"}' in text
    database = service.storage.root / "store.db"
    assert database.stat().st_mode & 0o077 == 0
