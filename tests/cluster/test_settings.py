"""Two searches at once into an empty storage: their databases are elsewhere, the cluster's processes know nothing of them,
and nothing secret can be seen."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest
from mlflow.tracking import MlflowClient

from ray_jobs.cluster.head import LOOPBACK, ClusterAddress, free_ports
from ray_jobs.tune.study import open_studies, studies_url
from safemirage.settings import read_settings
from safemirage.store.database import open_store
from tests.cluster.test_search import PROJECT, Bench, bench
from tests.postgres import postgres_server

pytestmark = [pytest.mark.postgres, pytest.mark.slow, pytest.mark.timeout(1000)]
__all__ = ["bench", "postgres_server"]

SECRET = "s3cr3t-0f-a-us3r"


@contextmanager
def tracking_server(folder: Path) -> Iterator[str]:
    (port,) = free_ports(1)
    url = f"http://{LOOPBACK}:{port}"
    command = [
        sys.executable, "-m", "mlflow", "server", "--host", LOOPBACK, "--port", str(port), "--workers", "1",
        "--backend-store-uri", f"sqlite:///{folder / 'server.db'}", "--artifacts-destination", str(folder / "files"),
    ]  # fmt: skip
    with (
        (folder / "server.log").open("wb") as log,
        subprocess.Popen(command, stdout=log, stderr=log) as server,
    ):
        try:
            deadline = time.monotonic() + 120
            while time.monotonic() < deadline:
                try:
                    if httpx.get(f"{url}/health", timeout=5).is_success:
                        break
                except httpx.TransportError:
                    time.sleep(0.5)
            yield url
        finally:
            server.terminate()


class CommandLines:
    """The command lines of all processes, looked at again and again in a thread."""

    def __init__(self) -> None:
        self.found: set[str] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> "CommandLines":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.5):
            for process in psutil.process_iter(["cmdline"]):
                self.found.add(" ".join(process.info["cmdline"] or ()))


def holding(folder: Path, secret: str) -> list[str]:
    """The files below a folder in which a text stands."""
    found = []
    for file in folder.rglob("*"):
        try:
            if file.is_file() and secret.encode() in file.read_bytes():
                found.append(str(file))
        except OSError:
            continue  # gone, or a socket
    return found


def test_searches_of_a_driver_with_databases_elsewhere_end_in_them_and_show_no_secret(
    bench: Bench, cluster: ClusterAddress, postgres_server: str, tmp_path: Path
) -> None:
    with tracking_server(tmp_path) as tracking, CommandLines() as lines:
        store_url = postgres_server.replace("tester@", f"tester:{SECRET}@") + "/postgres"
        environment = {
            **os.environ,
            **cluster.environment,
            "SAFEMIRAGE_STORAGE": str(bench.settings.storage.root),
            "SAFEMIRAGE_STORE_URL": store_url,
            "MLFLOW_TRACKING_URI": tracking,
            "MLFLOW_TRACKING_USERNAME": "me",
            "MLFLOW_TRACKING_PASSWORD": SECRET,
            "HF_TOKEN": SECRET,
            "OMP_NUM_THREADS": "1",
        }
        command = [sys.executable, "-m", "ray_jobs.search", str(bench.folder / "search.yaml"), "trials=1"]  # fmt: skip
        searches = [
            subprocess.Popen(
                [*command, f"warm_start=[{{method.beta: {beta}}}]"],
                cwd=PROJECT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            )
            for beta in (0.1, 0.5)
        ]  # fmt: skip
        outputs = [search.communicate(timeout=800)[0] for search in searches]
        assert [search.returncode for search in searches] == [0, 0], outputs
        listed = subprocess.run(
            [sys.executable, "-m", "ray.scripts.scripts", "list", "actors", "--detail", "--limit", "1000"],
            env=environment, capture_output=True, text=True, timeout=240, check=True,
        ).stdout  # fmt: skip

        settings = read_settings(environment=environment)
        with open_store(settings.store_url) as store:
            kinds = [run.kind for run in store.runs.list()]
            assert {run.state for run in store.runs.list()} == {"finished"}
        assert {kind: kinds.count(kind) for kind in kinds} == {"search": 2, "trial": 2, "train": 2}
        assert len(open_studies(studies_url(settings)).get_all_studies()) == 2
        client = MlflowClient(tracking)
        experiments = [item.experiment_id for item in client.search_experiments()]
        assert len(client.search_runs(experiments)) == 4
        assert not list(bench.settings.storage.root.glob("*.db"))

    session = Path(cluster.environment["RAY_AUTH_TOKEN_PATH"]).parent
    assert any(session.rglob("*.log"))
    assert holding(session, SECRET) == []
    assert holding(bench.settings.storage.root, SECRET) == []
    assert "ALIVE" in listed or "DEAD" in listed
    assert SECRET not in listed
    assert any("ray_jobs.search" in line for line in lines.found)
    assert [line for line in lines.found if SECRET in line] == []
    assert SECRET not in "".join(outputs)
