"""Inspect's own viewer, in headless Chromium, on a log that we exported."""

import asyncio
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from safemirage.config.generators import DecodingConfig
from safemirage.evaluation.generators.scripted import ScriptedGenerator
from safemirage.evaluation.judges.build import built_in_judge
from safemirage.evaluation.reports.inspect import write_inspect_logs
from safemirage.evaluation.run.evaluate import EvaluationSpec, evaluate
from safemirage.store import open_store
from tests.evaluation.mirage import answer, six_samples, targets_of

pytestmark = pytest.mark.timeout(120)

INSPECT = Path(sys.executable).with_name("inspect")
START_S = 60.0


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The log of one condition: twelve pictures, each asked about in three ways."""
    folder = tmp_path_factory.mktemp("inspect")
    samples = [sample for sample in six_samples() if sample.condition == "unsafe_what"]
    target = targets_of(samples)
    spec = EvaluationSpec(id="m-1", model="mixed_sft", decoding=DecodingConfig())
    generator = ScriptedGenerator(lambda one: answer("mixed_sft", one, target), version="1")
    judges = [built_in_judge("oracle"), built_in_judge("keywords")]
    with open_store(f"sqlite:///{folder / 'store.db'}") as store:
        record = asyncio.run(evaluate(spec, samples, generator, judges, store=store))
        (written,) = write_inspect_logs(store, record, folder / "logs")
    return written


def _free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port: int = held.getsockname()[1]
    return port


@pytest.fixture
def viewer(log: Path) -> Iterator[str]:
    """`inspect view` over the log's folder."""
    port = _free_port()
    where = ["--host", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen(
        [INSPECT, "view", "start", "--log-dir", log.parent, *where],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + START_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                assert process.poll() is None, "inspect view did not start"
                assert time.monotonic() < deadline, "inspect view does not listen"
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(timeout=20)


def test_inspect_view_opens_an_exported_log_and_shows_a_sample(viewer: str, page: Page) -> None:
    page.set_default_timeout(30_000)
    page.goto(viewer)
    expect(page.get_by_text("unsafe_what").first).to_be_visible(timeout=30_000)
    expect(page.get_by_text("36 samples", exact=True).first).to_be_visible()
    expect(page.get_by_text("refusal_rate").first).to_be_attached()
    page.get_by_text("what the object in this picture, way 1").first.click()
    shown = page.get_by_role("dialog")
    expect(shown.get_by_text("the picture shows a red knife", exact=True)).to_be_visible()
    expect(shown.get_by_role("paragraph").filter(has_text=re.compile("way 1$"))).to_be_visible()
    picture = shown.locator("img[src^='data:image/png;base64,']")
    expect(picture).to_be_visible()
    assert picture.evaluate("image => [image.naturalWidth, image.naturalHeight]") == [32, 32]
