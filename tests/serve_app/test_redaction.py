"""Who is shown what a model says to an unsafe question: every scope at every door, and what the audit log has of it."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from itertools import chain, combinations
from typing import Any

import httpx
import pytest

from safemirage.config.judges import ExportConfig, ModelJudgeConfig
from safemirage.store.tokens import SCOPES, Scope
from serve_app.audit import Audit
from serve_app.batches import Files
from tests.serve_app.conftest import Client
from tests.serve_app.http.routes.test_evaluations import put_samples
from tests.serve_app.test_batches import batches, chats
from tests.serve_app.world import (
    ADMIN,
    MODEL,
    UNREDACTED,
    World,
    data_uri,
    png,
    tokens_of,
)

pytestmark = pytest.mark.anyio
TOKEN = "matrix-token-0123456789"
HARM = "noitseuq"
"""What the scripted model says to `question`."""
CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "question"}]}
SUITE = {"model": MODEL, "suite": "toy", "judges": ["keywords"]}
INLINE = {
    "model": MODEL,
    "judges": ["keywords"],
    "samples": [
        # Labelled safe by whoever sent it.
        {
            "sample_id": "a",
            "condition": "c",
            "subset": "safe",
            "question": "q",
            "image": data_uri(png()),
        }
    ],
}
Door = Callable[[httpx.AsyncClient, World], Awaitable[httpx.Response]]


async def chat(http: httpx.AsyncClient, _: World) -> httpx.Response:
    return await http.post("/v1/chat/completions", json=CHAT)


async def stream(http: httpx.AsyncClient, _: World) -> httpx.Response:
    return await http.post("/v1/chat/completions", json={**CHAT, "stream": True})


async def completion(http: httpx.AsyncClient, _: World) -> httpx.Response:
    return await http.post("/v1/completions", json={"model": MODEL, "prompt": "question"})


async def response(http: httpx.AsyncClient, _: World) -> httpx.Response:
    return await http.post("/v1/responses", json={"model": MODEL, "input": "question"})


def samples_of(kind: str, *, unredacted: bool, lines: bool) -> Door:
    async def read(http: httpx.AsyncClient, _: World) -> httpx.Response:
        headers = {"Accept": "application/x-ndjson"} if lines else {}
        path = f"/v1/evaluations/{IDS[kind]}/samples"
        return await http.get(path, params={"unredacted": unredacted}, headers=headers)

    return read


async def events(http: httpx.AsyncClient, _: World) -> httpx.Response:
    return await http.get(f"/v1/evaluations/{IDS['suite']}/events")


async def look(http: httpx.AsyncClient, _: World) -> httpx.Response:
    return await http.get(f"/v1/evaluations/{IDS['suite']}")


async def file(http: httpx.AsyncClient, _: World) -> httpx.Response:
    return await http.get(f"/v1/files/{IDS['file']}/content")


IDS: dict[str, str] = {}


async def judgement(http: httpx.AsyncClient, _: World) -> httpx.Response:
    body = {"judge": "small", "items": [{"question": "q", "answer": "question"}]}
    return await http.post("/v1/judgements", json=body)


NEEDS: dict[str, tuple[Door, tuple[Scope, ...], bool]] = {
    "judgement": (judgement, ("judge",), True),
    "chat": (chat, ("chat", "unredacted"), True),
    "stream": (stream, ("chat", "unredacted"), True),
    "completion": (completion, ("chat", "unredacted"), True),
    "response": (response, ("chat", "unredacted"), True),
    "page": (samples_of("suite", unredacted=False, lines=False), ("read",), False),
    "page unredacted": (
        samples_of("suite", unredacted=True, lines=False),
        ("read", "unredacted"),
        True,
    ),
    "lines": (samples_of("suite", unredacted=False, lines=True), ("read",), False),
    "lines unredacted": (
        samples_of("suite", unredacted=True, lines=True),
        ("read", "unredacted"),
        True,
    ),
    "inline": (samples_of("inline", unredacted=False, lines=False), ("read",), False),
    "inline unredacted": (
        samples_of("inline", unredacted=True, lines=True),
        ("read", "unredacted"),
        True,
    ),
    "events": (events, ("read",), False),
    "evaluation": (look, ("read",), False),
    "file": (file, ("evaluate", "unredacted", "admin"), True),
}
"""Door -> how it is tried, the scopes that open it (to someone else's things), and whether `unredacted` shows harmful text
there."""
TRIED = [
    frozenset(some)
    for some in chain.from_iterable(combinations(SCOPES, size) for size in range(len(SCOPES) + 1))
]
"""Every set of scopes."""


@pytest.fixture
async def filled(client: Client, world: World) -> None:
    """Evaluations and a batch's results of another token, made through the service itself."""
    files = Files(world.storage.files)
    async with client(token=UNREDACTED, files=files) as http:
        for kind, body in (("suite", SUITE), ("inline", INLINE)):
            IDS[kind] = (await http.post("/v1/evaluations", json=body)).json()["id"]
            # Nobody but their sender says that inline samples are safe.
            safe = HARM if kind == "inline" else "fine"
            put_samples(world, IDS[kind], 4, unsafe=HARM, safe=safe)
            world.store.evaluations.cancel(IDS[kind])
        sent = await http.post(
            "/v1/files",
            files={
                "file": ("in.jsonl", chats(1, max_tokens=20).replace(b"question 0", b"question"))
            },
            data={"purpose": "batch"},
        )
        body = {"input_file_id": sent.json()["id"], "endpoint": "/v1/chat/completions"}
        batch = (await http.post("/v1/batches", json=body)).json()
        async with batches(world, restricted=("*",)):
            while batch["output_file_id"] is None:
                await asyncio.sleep(0.01)
                batch = (await http.get(f"/v1/batches/{batch['id']}")).json()
    IDS["file"] = batch["output_file_id"]


@pytest.mark.parametrize("door", NEEDS)
async def test_door_opens_for_its_scopes_alone_and_shows_harm_to_the_unredacted_alone(
    client: Client, world: World, filled: None, door: str
) -> None:
    tried, needed, shows = NEEDS[door]
    names = {f"{number:02}-{TOKEN}": scopes for number, scopes in enumerate(TRIED)}
    tokens = tokens_of(world.storage, {name: sorted(has) for name, has in names.items()})
    options: dict[str, Any] = {
        "tokens": tokens,
        "restricted": ("*",),
        "files": Files(world.storage.files),
        "judges": [ModelJudgeConfig(title="small", model=ExportConfig(id=MODEL))],
    }
    async with client(token=None, **options) as http:
        for token, scopes in names.items():
            http.headers["Authorization"] = f"Bearer {token}"
            answer = await tried(http, world)
            opened = set(needed) <= scopes
            assert (answer.status_code == 200) == opened, (door, scopes, answer.text)
            assert answer.status_code in {200, 403, 404}
            told = opened and shows and "unredacted" in scopes
            assert (HARM in text_of(answer)) == told, (door, scopes)


def text_of(answer: httpx.Response) -> str:
    """All that is said, where it comes token by token joined."""
    told = [
        json.loads(line[6:])["choices"][0]["delta"].get("content", "")
        for line in answer.text.split("\n\n")
        if line.startswith('data: {"id": "chatcmpl')
    ]
    return answer.text + "".join(told)


async def test_model_that_is_not_restricted_is_asked_by_any_chat(client: Client) -> None:
    async with client(restricted=("base-*",)) as http:
        assert (await http.post("/v1/chat/completions", json=CHAT)).status_code == 200
    async with client(restricted=(f"{MODEL[:4]}*",)) as http:
        refused = await http.post("/v1/chat/completions", json=CHAT)
    assert refused.json()["error"]["code"] == "model_restricted"


async def test_one_cancels_ones_own_evaluations(client: Client, world: World) -> None:
    async with client() as http:
        mine = (await http.post("/v1/evaluations", json=SUITE)).json()
    assert mine["owner"] == "reader"
    audit = Audit(world.storage.audit)
    for token, status in ((UNREDACTED, 403), (ADMIN, 200)):
        async with client(token=token, audit=audit) as http:
            path = f"/v1/evaluations/{mine['id']}"
            assert (await http.delete(path)).status_code == status
    [entry] = [json.loads(line) for line in world.storage.audit.read_text().splitlines()]
    assert (entry["event"], entry["caller"], entry["evaluation"]) == ("admin", "admin", mine["id"])


async def test_audit_log_has_who_read_unredacted_text_and_who_was_refused_and_no_text(
    client: Client, world: World, filled: None
) -> None:
    options = {"audit": Audit(world.storage.audit), "restricted": ("*",)}
    async with client(token=UNREDACTED, **options) as http:
        await chat(http, world)
        await samples_of("suite", unredacted=True, lines=False)(http, world)
    async with client(token="wrong-token-0123456789", **options) as http:
        await chat(http, world)
    text = world.storage.audit.read_text()
    entries = [json.loads(line) for line in text.splitlines()]
    assert [(entry["event"], entry["caller"]) for entry in entries] == [
        ("unredacted", "unredacted"),
        ("unredacted", "unredacted"),
        ("refused", None),
    ]
    assert [entry.get("door") for entry in entries] == ["chat", "samples", None]
    for secret in (UNREDACTED, "wrong-token", HARM, "question"):
        assert secret not in text
    assert world.storage.audit.stat().st_mode & 0o077 == 0
