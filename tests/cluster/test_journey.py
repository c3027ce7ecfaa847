"""README's jobs walked as written: a plain head, Ray's token file, settings of the shell's own, data beside the code."""

import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
import yaml

from tests.cluster.test_search import write_suite
from tests.readme import README, lines
from tests.tiny_run import make_tiny_run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ROOT = README.parent
BIN = Path(sys.executable).parent
STAND_INS = {
    "configs/train/llava_v1.5_7b_npo_full_1_epoch.yaml": "tiny.yaml",
    "configs/search/miniature_npo.yaml": "search.yaml",
}
"""Run files that need weights or half an hour, and what is walked in their place."""
DASHBOARD = "http://127.0.0.1:8265"


def write_run_files(folder: Path) -> None:
    """`tiny.yaml` and `search.yaml`, which stand in for run files of larger models, and what they read."""
    run = make_tiny_run(folder / "data")
    run["model"] = {"path": "data/model"}
    run["data"] = {name: f"data/{name}.json" for name in ("retain", "forget")}
    run["data"]["image_folder"] = "data/images"
    (folder / "tiny.yaml").write_text(yaml.safe_dump(run))
    write_suite(folder / "data" / "suite", "white")
    search = {
        "name": "tiny-search",
        "base": "tiny.yaml",
        "space": {"method.beta": {"name": "loguniform", "low": 0.05, "high": 2.0}},
        "trials": 1,
        "objectives": [
            {"name": "asr", "metric": "asr", "direction": "min", "conditions": ["unsafe_plain"]},
        ],
        "selection": {
            "suite": "data/suite",
            "judges": [{"name": "oracle"}],
            "decoding": {"max_new_tokens": 4},
        },
    }
    (folder / "search.yaml").write_text(yaml.safe_dump(search))


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A checkout with 300 MB beside the code, and run files whose inputs are relative."""
    folder = tmp_path / "project"
    for name in ("configs", "ray_jobs", "safemirage", "serve_app"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in (".gitignore", ".rayignore"):
        shutil.copy(ROOT / name, folder / name)
    (folder / ".venv").symlink_to(sys.prefix)
    write_run_files(folder)
    (folder / "data" / "blob").write_bytes(secrets.token_bytes(300 * 2**20))
    return folder


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A user's folder in which a local Ray has left its token."""
    token = tmp_path / "home" / ".ray" / "auth_token"
    token.parent.mkdir(parents=True)
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    return tmp_path / "home"


@pytest.fixture
def head(home: Path, tmp_path: Path) -> Iterator[None]:
    """README's head, held by its process, in a shell of its own where nothing was activated or exported."""
    (command,) = [line for line in lines() if line.startswith("ray start")]
    started = command.partition("#")[0].split()
    bare = {"PATH": "/usr/bin:/bin", "HOME": str(home), "OMP_NUM_THREADS": "1"}
    bare["RAY_USAGE_STATS_ENABLED"] = "0"
    log = (tmp_path / "head.log").open("wb")
    process = subprocess.Popen(
        [str(BIN / "ray"), *started[1:], "--block"],
        env=bare, cwd="/", stdout=log, stderr=log, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        _wait_for_dashboard(process, tmp_path / "head.log")
        yield
    finally:
        family = [
            *psutil.Process(process.pid).children(recursive=True),
            psutil.Process(process.pid),
        ]
        process.terminate()
        _, alive = psutil.wait_procs(family, timeout=20)
        for one in alive:
            one.kill()
        process.wait()
        log.close()


def _wait_for_dashboard(process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        try:
            if httpx.get(f"{DASHBOARD}/api/version", timeout=5).status_code in {200, 401}:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.5)
    pytest.fail(f"no head: {log.read_text()}")


def shell(
    text: str, project: Path, home: Path, **exported: str
) -> subprocess.CompletedProcess[str]:
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "PYTHONPATH") if name in os.environ}
    return subprocess.run(
        ["bash", "-e", "-c", text],
        cwd=project, env={**kept, "HOME": str(home), **exported},
        capture_output=True, text=True, timeout=700, check=False,
    )  # fmt: skip


def test_jobs_of_readme_run_as_written(
    project: Path, home: Path, head: None, tmp_path: Path
) -> None:
    starts = ("source", "export", "safemirage submit", "ray job submit")
    text = "\n".join(line for line in lines() if line.startswith(starts))
    for file, stand_in in STAND_INS.items():
        assert file in text
        text = text.replace(file, stand_in)
    storage = tmp_path / "kept%20?here"
    walked = shell(text, project, home, SAFEMIRAGE_STORAGE=str(storage))
    said = walked.stdout + walked.stderr
    assert walked.returncode == 0, said
    assert "finished after 6 steps" in said
    assert "chosen: method.beta=" in said
    assert re.search(r"^job raysubmit_\w+: succeeded$", said, re.MULTILINE)
    assert {"store.db", "mlflow.db", "studies.db"} <= {item.name for item in storage.iterdir()}
    exports = list((storage / "exports").glob("*/manifest.json"))
    assert len(exports) == 2
    # What is recorded outlives the job's copy of its code.
    bases = {json.loads(manifest.read_text())["base"]["path"] for manifest in exports}
    assert bases == {str(project / "data" / "model")}

    # Without what job-env says, a job is not let near inputs that it could not name for good.
    export = next(line for line in lines() if line.startswith("export"))
    bare = 'ray job submit --working-dir . -- "$(which python)" -m ray_jobs.train tiny.yaml'
    refused = shell(f"source .venv/bin/activate\n{export}\n{bare}", project, home)
    assert refused.returncode != 0
    assert "data.retain: 'data/retain.json' is relative" in refused.stdout + refused.stderr
    assert "SAFEMIRAGE_DATA" in refused.stdout + refused.stderr

    elsewhere = "safemirage submit --address http://127.0.0.1:9 train tiny.yaml"
    refused = shell(f"source .venv/bin/activate\n{elsewhere}", project, home)
    assert refused.returncode == 2
    assert "--address: http://127.0.0.1:9" in refused.stderr
    assert "Traceback" not in refused.stderr
