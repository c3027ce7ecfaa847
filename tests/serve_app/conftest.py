"""The API in this process, over a real storage and store; only the answers are scripted."""

import re
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest
import uvicorn

from safemirage.config.serve import LimitsConfig, ServedJudgeConfig
from safemirage.settings import Settings
from safemirage.store import open_store
from serve_app.batches import Files
from serve_app.http.api import ApiSettings, create_api
from serve_app.service import Service
from tests.serve_app.world import READER, Scripted, World, tokens_of, write_export, write_suite


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    settings = Settings.at(tmp_path / "storage")
    storage = settings.storage
    write_export(storage)
    write_suite(storage)
    with open_store(settings.store_url) as store:
        yield World(storage, store, Scripted())


@cache
def documented() -> Any:
    """The OpenAPI schema of the whole API."""
    service: Any = None
    return create_api(service, ApiSettings(files=Files(Path("none")))).openapi()


async def check_documented(response: httpx.Response) -> None:
    """Every answer that a test meets has a status and a body that the OpenAPI page tells of."""
    await response.aread()
    schema = documented()
    path, method = response.request.url.path, response.request.method.lower()
    for pattern, calls in schema["paths"].items():
        regex = re.sub(r"\\{[^}]+\\}", "[^/]+", re.escape(pattern))
        if method in calls and re.fullmatch(regex, path):
            told = calls[method]["responses"]
            assert str(response.status_code) in told, (method, pattern, response.status_code)
            content = told[str(response.status_code)].get("content", {})
            kind = response.headers.get("content-type", "").partition(";")[0]
            assert kind in content, (method, pattern, kind)
            if found := content[kind].get("schema"):
                whole = {**found, "components": schema["components"]}
                jsonschema.validate(response.json(), whole)
            return


Client = Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]]


@pytest.fixture
def client(world: World) -> Client:
    """`async with client(token=..., limits=...) as http`: a client of a fresh API over the world."""
    tokens = tokens_of(world.storage)

    @asynccontextmanager
    async def connect(
        token: str | None = READER,
        limits: LimitsConfig | None = None,
        judges: Sequence[ServedJudgeConfig] = (),
        **options: Any,
    ) -> AsyncIterator[httpx.AsyncClient]:
        service = Service(
            storage=world.storage, store=world.store, engines=world.engines, judges=judges
        )
        given = {"tokens": tokens, "limits": limits or LimitsConfig(), "events_poll_s": 0.01}
        app = create_api(service, ApiSettings(**{**given, **options}))
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        async with httpx.AsyncClient(
            transport=transport,
            base_url="http://localhost",
            headers=headers,
            event_hooks={"response": [check_documented]},
        ) as http:
            yield http

    return connect


@pytest.fixture
def url(world: World) -> Iterator[str]:
    """The API over a real socket."""
    service = Service(storage=world.storage, store=world.store, engines=world.engines)
    app = create_api(service, ApiSettings(tokens=tokens_of(world.storage)))
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the server did not start"
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()
