"""The guides that need Ray, run as they are written on one cluster, with tiny models for the miniature's."""

import json
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from ray_jobs.cluster.head import ClusterAddress, free_ports
from safemirage.storage import Storage
from tests.cluster.serving import write_tiny_export
from tests.cluster.test_journey import write_run_files
from tests.readme import ROOT, Block, blocks, environment, run_block

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

TOKEN = "a-token-of-the-guides"
NPO = "npo-1a8975d451fb"
"""The export that docs/guides/serve.md asks."""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with a storage that holds a base, an unlearned model and a suite."""
    write_run_files(tmp_path)
    storage = Storage(tmp_path / "storage")
    for name, seed in (("base-000000000000", 1), (NPO, 2)):
        write_tiny_export(storage, name, seed)
    shutil.copytree(tmp_path / "data" / "suite", tmp_path / "suite")
    return tmp_path


def of(page: str) -> list[Block]:
    found = [one for one in blocks(ROOT / "docs" / "guides" / page) if one.is_code and one.runner]
    assert {one.runner for one in found} == {"tests/cluster/test_guides.py"}
    return found


def test_unlearn(project: Path, cluster: ClusterAddress) -> None:
    train, measure = of("unlearn.md")
    stand_in = {"configs:train/miniature_npo.yaml": "tiny.yaml name=npo"}
    shutil.rmtree(project / "storage" / "exports" / NPO)
    said = run_block(train, project, stand_in, **cluster.environment)
    assert "finished after 6 steps; export: " in said
    shutil.copytree(project / "suite", project / "storage" / "worlds" / "w" / "suites" / "test")
    assert "Changes from base to npo" in run_block(measure, project, {})
    assert (project / "changes" / "compare.html").is_file()


def test_search(project: Path, cluster: ClusterAddress) -> None:
    search, look, plan = of("search.md")
    stand_in = {"configs:search/miniature_npo_beta.yaml": "search.yaml"}
    assert "chosen: method.beta=" in run_block(search, project, stand_in, **cluster.environment)
    assert "studies" in run_block(look, project, {})
    assert "about 27.3 GPU-hours for 32 trials" in run_block(plan, project, {})


@pytest.fixture
def address(project: Path, cluster: ClusterAddress) -> Iterator[str]:
    """Where the service of docs/guides/serve.md listens, started as its page says."""
    copy, start, *_ = of("serve.md")
    run_block(copy, project, {})
    (port,) = free_ports(1)
    scopes = "chat,judge,evaluate,read,unredacted"
    made = f"$(safemirage token create me --scopes {scopes})"
    assert made in start.text
    text = start.text.replace(made, f"'{scopes} {TOKEN}'")
    text = text.replace("configs:serve/local.yaml", f"configs:serve/local.yaml port={port}")
    log = (project / "serve.log").open("wb")
    process = subprocess.Popen(
        ["bash", "-e", "-c", text.replace("safemirage serve", "exec safemirage serve")],
        cwd=project, env=environment(project, **cluster.environment), stdout=log, stderr=log,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 180
        while time.monotonic() < deadline:
            assert process.poll() is None, (project / "serve.log").read_text()
            try:
                if httpx.get(f"http://127.0.0.1:{port}/healthz", timeout=5).status_code == 200:
                    break
            except httpx.TransportError:
                time.sleep(0.5)
        yield f"127.0.0.1:{port}"
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(timeout=60)
        log.close()


def test_serve(project: Path, address: str) -> None:
    _, _, models, chat, evaluate = of("serve.md")
    here = {"127.0.0.1:8000": address}
    listed = json.loads(run_block(models, project, here, SAFEMIRAGE_API_TOKEN=TOKEN))
    assert NPO in {card["id"] for card in listed["data"]}
    # What a model of random weights says may be blank; that the client is answered is what counts.
    assert run_block(chat, project, here, SAFEMIRAGE_API_TOKEN=TOKEN).endswith("\n")
    rows = run_block(evaluate, project, here, SAFEMIRAGE_API_TOKEN=TOKEN).splitlines()
    assert any(row.startswith("keywords unsafe_plain asr ") for row in rows)
