"""The API of any storage behind a real HTTP server in this process, and headless Chromium in front of it."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import uvicorn
from playwright.sync_api import Browser, Page, expect, sync_playwright

from safemirage.settings import Settings
from safemirage.store import open_store
from serve_app.http.api import ApiSettings, create_api
from serve_app.service import Service
from tests.serve_app.world import READER, Scripted, World, tokens_of

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@dataclass(frozen=True)
class Site:
    url: str
    world: World


@contextmanager
def served(settings: Settings) -> Iterator[Site]:
    """The site of a storage."""
    tokens = tokens_of(settings.storage)
    with open_store(settings.store_url) as store:
        world = World(settings.storage, store, Scripted())
        service = Service(storage=settings.storage, store=store, engines=world.engines)
        app = create_api(service, ApiSettings(tokens=tokens))
        server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
        thread = threading.Thread(target=server.run)
        thread.start()
        try:
            while not server.started:
                assert thread.is_alive(), "the server did not start"
                time.sleep(0.01)
            port = server.servers[0].sockets[0].getsockname()[1]
            yield Site(f"http://127.0.0.1:{port}", world)
        finally:
            server.should_exit = True
            thread.join()


@contextmanager
def chromium() -> Iterator[Browser]:
    if not CHROMIUM.exists():
        pytest.skip(f"{CHROMIUM} is not there; Debian has it in the package chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@contextmanager
def fresh_page(browser: Browser) -> Iterator[Page]:
    """An error in its scripts, or a call to another host, fails the test."""
    context = browser.new_context(viewport={"width": 1200, "height": 1400})
    page = context.new_page()
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on(
        "request",
        lambda request: (
            None
            if request.url.startswith(("http://127.0.0.1:", "blob:http://127.0.0.1:", "data:"))
            else problems.append(f"asked {request.url}")
        ),
    )
    yield page
    context.close()
    assert problems == []


def open_page(site: Site, page: Page, token: str = READER) -> None:
    page.goto(site.url)
    page.get_by_label("Bearer token").fill(token)
    page.get_by_role("button", name="Open").click()
    expect(page.get_by_role("heading", name="Studies")).to_be_visible()
