"""Bodies are refused by what has come of them, before anything is built; slow ones are closed, over real sockets."""

import asyncio
import json
import random
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn
from uvicorn.config import HTTP_PROTOCOLS
from uvicorn.importer import import_from_string

from safemirage.config.serve import LimitsConfig
from serve_app.http.api import ApiSettings, create_api
from serve_app.http.bodies import BodyShape
from serve_app.http.errors import ApiError
from serve_app.http.heads import BoundedHeads, proxy_environment
from serve_app.http.openai import ChatBody
from serve_app.http.schemas import SampleBody
from serve_app.service import Service
from tests.serve_app.conftest import Client
from tests.serve_app.world import MODEL, World

pytestmark = pytest.mark.anyio
PATHS = ("/v1/chat/completions", "/v1/judgements", "/v1/evaluations")
JSON = {"Content-Type": "application/json"}
CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "what is this"}]}


def chat_of(size: int) -> bytes:
    """A chat whose body has this many bytes."""
    short = json.dumps({**CHAT, "user": ""}).encode()
    return short.replace(b'"user": ""', b'"user": "' + b"x" * (size - len(short)) + b'"')


def measured(tree: Any) -> tuple[int, int]:
    """Depth and values of a tree, commas and brackets of the text that says it."""
    if not isinstance(tree, dict | list):
        return 0, 0
    inner = [measured(item) for item in (tree.values() if isinstance(tree, dict) else tree)]
    marks = 1 + max(len(inner) - 1, 0) + sum(count for _, count in inner)
    return 1 + max((depth for depth, _ in inner), default=0), marks


def random_tree(rng: random.Random, depth: int) -> Any:
    match rng.randrange(4 if depth else 2):
        case 0:
            return rng.choice([1, None, -2.5e3, True])
        case 1:
            return "".join(rng.choices('ab"\\[]{},:\n\u00e9', k=rng.randrange(12)))
        case 2:
            return [random_tree(rng, depth - 1) for _ in range(rng.randrange(4))]
        case _:
            return {
                f'k{number}",{{': random_tree(rng, depth - 1) for number in range(rng.randrange(4))
            }


def is_taken(text: bytes, cut: int, depth: int, values: int) -> bool:
    shape = BodyShape(LimitsConfig(body_depth=max(depth, 1), body_values=values))
    try:
        for start in range(0, len(text), cut):
            shape.feed(text[start : start + cut])
    except ApiError:
        return False
    return True


def test_shape_is_counted_exactly_wherever_the_text_is_cut() -> None:
    rng = random.Random(0)
    for _ in range(200):
        tree = [random_tree(rng, 4)]
        text = json.dumps(tree, ensure_ascii=rng.random() < 0.5).encode()
        depth, marks = measured(tree)
        for cut in (1, 2, 7, len(text)):
            assert is_taken(text, cut, depth, marks + 1)
            assert not is_taken(text, cut, depth, marks)
            if depth > 1:
                assert not is_taken(text, cut, depth - 1, marks + 1)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b'{"a":' + b"[" * 1000, "body_depth"),
        (b'{"a":' * 40, "body_depth"),
        (b"[" + b"1," * 300_000 + b"1]", "body_values"),
        (b'{"samples":[' + b"{}," * 150_000 + b"{}]}", "body_values"),
        (json.dumps({f"k{number}": 1 for number in range(100_000)}).encode(), "body_keys"),
        (
            json.dumps({"samples": [{f"k{number}": 1 for number in range(65)}]}).encode(),
            "body_keys",
        ),
    ],
)
async def test_shape_over_a_limit_is_refused_on_every_route_before_pydantic_sees_it(
    client: Client, monkeypatch: pytest.MonkeyPatch, path: str, content: bytes, named: str
) -> None:
    monkeypatch.setattr(
        "serve_app.http.schemas.Body.model_validate", lambda *_: pytest.fail("it did")
    )
    async with client() as http:
        response = await http.post(path, content=content, headers=JSON)
    assert response.status_code == 413
    assert f"limits.{named}" in response.json()["error"]["message"]


@pytest.mark.parametrize("path", PATHS)
async def test_body_without_an_end_is_refused_while_it_comes_in(client: Client, path: str) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += 1
            yield b"[1,1]," * 1000

    async with client(limits=LimitsConfig(body_values=10_000)) as http:
        response = await http.post(path, content=endless(), headers=JSON)
    assert response.status_code == 413
    assert sent <= 5


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("content", "headers", "status"),
    [
        (b"{}", {"Content-Type": "text/plain"}, 415),
        (b"{}", {}, 415),
        ('{"a": "é"}'.encode("utf-16"), JSON, 400),
        (b'{"a": 1' + b"1" * 5000 + b"}", JSON, 400),
    ],
)
async def test_what_is_no_json_is_refused_on_every_route(
    client: Client, path: str, content: bytes, headers: dict[str, str], status: int
) -> None:
    async with client() as http:
        response = await http.post(path, content=content, headers=headers)
    assert response.status_code == status
    assert response.json()["error"]["type"] == "invalid_request_error"


async def test_wrong_samples_are_read_until_twenty_problems_are_known(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = []
    validate = SampleBody.model_validate
    monkeypatch.setattr(
        SampleBody, "model_validate", lambda tree: read.append(tree) or validate(tree)
    )
    body = {"model": MODEL, "judges": ["keywords"], "samples": [1] * 10_000}
    async with client() as http:
        wrong = await http.post("/v1/evaluations", json=body)
        many = await http.post("/v1/evaluations", json={**body, "samples": [1] * 10_001})
    message = wrong.json()["error"]["message"]
    assert wrong.status_code == 422
    assert message.startswith("samples.0: ")
    assert message.count("samples.") == 20
    assert len(read) == 20
    assert many.status_code == 413, "too many are not looked at"


async def test_error_repeats_no_more_of_a_key_than_a_line(client: Client) -> None:
    async with client() as http:
        response = await http.post(PATHS[0], json={**CHAT, "k" * 1_000_000: 1})
    assert response.status_code == 400
    assert len(response.content) < 1000


async def test_body_is_read_off_the_event_loop(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = []
    validate = ChatBody.model_validate
    monkeypatch.setattr(
        ChatBody,
        "model_validate",
        lambda tree: threads.append(threading.current_thread()) or validate(tree),
    )
    async with client() as http:
        assert (await http.post(PATHS[0], json=CHAT)).status_code == 200
    assert len(threads) == 1
    assert threading.main_thread() not in threads


async def test_bodies_together_are_bounded_until_they_are_answered(
    client: Client, world: World
) -> None:
    held, size = asyncio.Event(), 4000

    async def unfinished() -> AsyncIterator[bytes]:
        content = chat_of(size)
        yield content[:-1]
        await held.wait()
        yield content[-1:]

    limits = LimitsConfig(body_bytes=size, bodies_bytes=2 * size + 500, retry_after_s=3)
    async with client(limits=limits) as http:
        waiting = [
            asyncio.create_task(http.post(PATHS[0], content=unfinished(), headers=JSON))
            for _ in range(2)
        ]
        await asyncio.sleep(0.05)
        small = await http.post(PATHS[0], json=CHAT)
        turned_away = await http.post(PATHS[0], content=chat_of(size), headers=JSON)
        held.set()
        assert [(await one).status_code for one in waiting] == [200, 200]
        again = await http.post(PATHS[0], content=chat_of(size), headers=JSON)
    assert small.status_code == 200
    assert turned_away.status_code == 429
    assert turned_away.headers["Retry-After"] == "3"
    assert again.status_code == 200


@pytest.fixture
def heads(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[BoundedHeads]]:
    monkeypatch.setattr(BoundedHeads, "timeout_s", 0.3)
    return BoundedHeads


@asynccontextmanager
async def listening(world: World, limits: LimitsConfig) -> AsyncIterator[int]:
    """The port of the API on a real socket."""
    service = Service(storage=world.storage, store=world.store, engines=world.engines)
    app = create_api(service, ApiSettings(limits=limits))
    server = uvicorn.Server(
        uvicorn.Config(app, http=BoundedHeads, lifespan="off", log_level="error")
    )
    with socket.create_server(("127.0.0.1", 0)) as bound:
        task = asyncio.create_task(server.serve(sockets=[bound]))
        try:
            yield bound.getsockname()[1]
        finally:
            server.should_exit = True
            await task


async def said(reader: asyncio.StreamReader) -> bytes:
    """All that the other side says until it closes the connection."""
    return await asyncio.wait_for(reader.read(), timeout=20)


def head_of(path: str, length: int) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", "Content-Type: application/json"]
    return "\r\n".join([*lines, f"Content-Length: {length}", "", ""]).encode()


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("byte", [b"", b"{"])
async def test_body_a_byte_short_is_answered_with_408_and_closed(
    world: World, heads: type[BoundedHeads], path: str, byte: bytes
) -> None:
    async with listening(world, LimitsConfig(body_timeout_s=0.2, waiting=1)) as port:
        held = []
        for _ in range(3):  # more than there are places
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(head_of(path, 1000) + byte)
            held.append((reader, writer))
        for reader, writer in held:
            answer = await said(reader)
            assert answer.startswith(b"HTTP/1.1 408"), answer
            assert b"did not come within 0.2 s" in answer
            writer.close()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        content = json.dumps(CHAT).encode()
        writer.write(
            head_of(PATHS[0], len(content)).replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
        )
        writer.write(content)
        assert (await said(reader)).startswith(b"HTTP/1.1 200")
        writer.close()


@pytest.mark.parametrize("start", [b"", b"POST /v1/chat", b"GET /healthz HTTP/1.1\r\nHost: loc"])
async def test_head_that_does_not_come_is_not_waited_for(
    world: World, heads: type[BoundedHeads], start: bytes
) -> None:
    async with listening(world, LimitsConfig()) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(start)
        assert await said(reader) == b""
        writer.close()


async def test_head_after_an_answer_is_not_waited_for_either_and_a_slow_answer_is(
    world: World, heads: type[BoundedHeads]
) -> None:
    world.engines.delay_s = 0.8
    async with listening(world, LimitsConfig()) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        content = json.dumps(CHAT).encode()
        writer.write(head_of(PATHS[0], len(content)) + content)
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
        writer.write(b"GET /healthz HTTP/1.1\r\nHost")
        assert b"HTTP/1.1" not in await said(reader)
        writer.close()


def test_proxies_of_serve_take_the_limit_of_heads(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.serve._private import http_util
    from ray.serve.config import ControllerOptions, HTTPOptions

    given = proxy_environment(LimitsConfig(header_timeout_s=7))
    ControllerOptions.model_validate({"runtime_env": {"env_vars": given}})
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    # What Serve reads of the environment when a proxy imports it.
    [callback] = [name for name in given if name.startswith("RAY_SERVE")]
    monkeypatch.setattr(http_util, callback, given[callback])
    monkeypatch.setitem(HTTP_PROTOCOLS, "auto", HTTP_PROTOCOLS["auto"])
    monkeypatch.setattr(BoundedHeads, "timeout_s", 0)
    assert http_util.configure_http_middlewares(HTTPOptions(middlewares=[])).middlewares == []
    assert BoundedHeads.timeout_s == 7
    config = uvicorn.Config(create_api, factory=True, lifespan="off", log_config=None)
    assert import_from_string(HTTP_PROTOCOLS[str(config.http)]) is BoundedHeads
