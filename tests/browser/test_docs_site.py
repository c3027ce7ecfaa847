"""The built site of docs/ in Chromium: no page is wider than a phone, and none asks another host, which `page` forbids."""

import functools
import http.server
import os
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect

from tests.readme import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    handler = functools.partial(_Quiet, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("width", [1280, 390])
def test_pages_fit_their_width_and_ask_nothing_of_other_hosts(
    built: str, page: Page, width: int
) -> None:
    failed: list[str] = []
    page.on("requestfailed", lambda sent: failed.append(sent.url))
    page.set_viewport_size({"width": width, "height": 900})
    for path in ("index", "guides/mirage", "guides/reports", "reference/cli", "reference/http"):
        page.goto(f"{built}{path}.html")
        expect(page.locator("h1").first).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= width, path
    assert failed == []


def test_search_of_the_site_finds_a_key_by_its_name(built: str, page: Page) -> None:
    page.goto(f"{built}index.html?q=steering_coefficient")
    found = page.locator(".md-search-result__list")
    expect(found).to_contain_text("steering_coefficient", timeout=20_000)
