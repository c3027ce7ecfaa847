"""Batches by the unchanged `openai` client: what goes up comes down answered, once each, whoever dies in between."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import openai
import pytest

from safemirage.config.serve import EvaluationsConfig, LimitsConfig
from serve_app.audit import Audit
from serve_app.batches import BatchRunner, Files
from serve_app.http.admission import Admission
from serve_app.http.desk import Desk
from serve_app.http.routes.batches import Lines
from serve_app.service import Service
from tests.serve_app.conftest import Client
from tests.serve_app.world import ADMIN, MODEL, READER, UNREDACTED, World

pytestmark = pytest.mark.anyio
CONFIG = EvaluationsConfig(batch=4, poll_s=0.01, takeover_s=0.3)


@asynccontextmanager
async def batches(world: World, *, restricted: tuple[str, ...] = ()) -> AsyncIterator[None]:
    service = Service(storage=world.storage, store=world.store, engines=world.engines)
    admission = Admission(LimitsConfig(share=1))
    desk = Desk(service, admission, restricted=restricted, follows_schemas=False, audit=Audit(None))
    lines = Lines(service, desk, "refusal_rules")
    runner = BatchRunner(
        Files(world.storage.files), world.store, lines.answer, config=CONFIG, most=100
    )
    task = asyncio.create_task(runner.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def client_of(http: httpx.AsyncClient) -> openai.AsyncOpenAI:
    key = http.headers["Authorization"].removeprefix("Bearer ")
    return openai.AsyncOpenAI(base_url="http://localhost/v1", api_key=key, http_client=http)


def chats(count: int, **options: Any) -> bytes:
    lines = [
        {
            "custom_id": f"c{number}",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {
                "model": MODEL,
                "messages": [{"role": "user", "content": f"question {number}"}],
                **options,
            },
        }
        for number in range(count)
    ]
    return "\n".join(map(json.dumps, lines)).encode()


async def started(client: openai.AsyncOpenAI, data: bytes, endpoint: Any) -> str:
    file = await client.files.create(file=("in.jsonl", data), purpose="batch")
    batch = await client.batches.create(
        input_file_id=file.id, endpoint=endpoint, completion_window="24h"
    )
    return batch.id


async def ended(client: openai.AsyncOpenAI, batch_id: str) -> Any:
    while (batch := await client.batches.retrieve(batch_id)).completed_at is None:
        assert batch.status not in {"failed", "cancelled"}, batch
        await asyncio.sleep(0.01)
    return batch


async def results(client: openai.AsyncOpenAI, file_id: str | None) -> dict[str, Any]:
    assert file_id is not None
    content = await client.files.content(file_id)
    found = [json.loads(line) for line in content.text.splitlines()]
    assert len({one["custom_id"] for one in found}) == len(found), "each is answered once"
    return {one["custom_id"]: one["response"] for one in found}


async def test_batch_of_chats_comes_down_answered_and_errors_apart(
    client: Client, world: World
) -> None:
    data = chats(6) + b"\n" + chats(1, n=0).replace(b'"c0"', b'"wrong"')
    async with client(files=Files(world.storage.files)) as http, batches(world):
        one = client_of(http)
        batch = await ended(one, await started(one, data, "/v1/chat/completions"))
        good = await results(one, batch.output_file_id)
        bad = await results(one, batch.error_file_id)
        listed = [entry.id async for entry in one.batches.list()]
    assert (batch.request_counts.completed, batch.request_counts.failed) == (6, 1)
    assert good["c3"]["body"]["choices"][0]["message"]["content"] == "3 noitseuq"
    assert bad["wrong"]["status_code"] == 400
    assert bad["wrong"]["body"]["error"]["param"] == "n"
    assert listed == [batch.id]


async def test_batch_of_judgements_is_answered(client: Client, world: World) -> None:
    item = {"question": "q", "answer": "I'm sorry"}
    line = {"custom_id": "j", "body": {"judge": "keywords", "items": [item]}}
    async with client(files=Files(world.storage.files)) as http, batches(world):
        one = client_of(http)
        batch = await ended(one, await started(one, json.dumps(line).encode(), "/v1/judgements"))
        found = await results(one, batch.output_file_id)
    assert found["j"]["body"]["data"][0]["verdict"]["label"] == "refuse"


async def test_batch_whose_runner_died_is_resumed_and_nothing_is_asked_twice(
    client: Client, world: World
) -> None:
    world.engines.delay_s = 0.05
    async with client(files=Files(world.storage.files)) as http:
        one = client_of(http)
        batch_id = await started(one, chats(20), "/v1/chat/completions")
        path = Files(world.storage.files).path(f"file-{batch_id}-output")
        async with batches(world):
            while not path.exists() or path.read_bytes().count(b"\n") < 5:
                await asyncio.sleep(0.01)
        # Killed while it wrote a line.
        with path.open("ab") as stream:
            stream.write(b'{"id": "half')
        kept = path.read_bytes().count(b"\n")
        asked = len(world.engines.requests)
        async with batches(world):
            batch = await ended(one, batch_id)
        found = await results(one, batch.output_file_id)
    assert len(found) == 20
    assert len(world.engines.requests) - asked == 20 - kept


async def test_batch_that_is_cancelled_keeps_what_it_has(client: Client, world: World) -> None:
    world.engines.delay_s = 0.05
    async with client(files=Files(world.storage.files)) as http, batches(world):
        one = client_of(http)
        batch_id = await started(one, chats(40), "/v1/chat/completions")
        while (await one.batches.retrieve(batch_id)).status != "in_progress":
            await asyncio.sleep(0.01)
        await one.batches.cancel(batch_id)
        while (await one.batches.retrieve(batch_id)).status != "cancelled":
            await asyncio.sleep(0.01)
    assert len(world.engines.requests) < 40


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "no request"),
        (b"{", "line 1"),
        (b'{"custom_id": "a"}', "line 1"),
        (b"[" * 100_000, "line 1"),
        (b'{"custom_id": "a", "body": {}}\n' * 2, "line 2"),
        (b'{"custom_id": "a", "body": {}, "url": "/v1/models"}', "/v1/chat/completions only"),
    ],
)
async def test_file_that_holds_no_requests_starts_no_batch(
    client: Client, world: World, data: bytes, says: str
) -> None:
    async with client(files=Files(world.storage.files)) as http:
        one = client_of(http)
        with pytest.raises(openai.BadRequestError, match=says):
            await started(one, data or b" ", "/v1/chat/completions")
        with pytest.raises(openai.BadRequestError, match="endpoint"):
            await started(one, chats(1), "/v1/embeddings")


async def test_files_and_batches_are_their_owners(client: Client, world: World) -> None:
    files = Files(world.storage.files)
    async with client(token=UNREDACTED, files=files) as http, batches(world, restricted=("*",)):
        one = client_of(http)
        batch = await ended(one, await started(one, chats(1), "/v1/chat/completions"))
    for token, status in ((READER, 404), (ADMIN, 200)):
        async with client(token=token, files=files) as http:
            for path in (f"files/{batch.output_file_id}", f"batches/{batch.id}"):
                assert (await http.get(f"/v1/{path}")).status_code == status
            content = await http.get(f"/v1/files/{batch.output_file_id}/content")
            assert content.status_code == status
            listed = (await http.get("/v1/batches")).json()["data"]
            assert bool(listed) == (status == 200)
            for wrong in ("../tokens", "a%2Fb", "..", "é"):
                assert (await http.get(f"/v1/files/{wrong}")).status_code in {404, 405}
