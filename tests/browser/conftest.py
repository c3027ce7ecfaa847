"""A small site, and a page of headless Chromium to look at it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from safemirage.settings import Settings
from tests.browser.site import Site, chromium, fresh_page, served
from tests.kinds import kind
from tests.serve_app.world import write_export, write_suite

pytest_ignore_collect, pytest_collection_modifyitems = kind(__file__, "browser")


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    settings = Settings.at(tmp_path / "storage")
    write_export(settings.storage)
    write_suite(settings.storage)
    with served(settings) as site:
        yield site


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    with fresh_page(browser) as page:
        yield page
