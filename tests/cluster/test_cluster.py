"""The head that we start: it answers with its token only, and nothing of it is left behind."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import httpx
import psutil
import pytest

from ray_jobs.cluster.head import ClusterError, free_ports, local_cluster

pytestmark = pytest.mark.timeout(180)


def processes_with(text: str) -> list[int]:
    return [
        process.pid
        for process in psutil.process_iter(["cmdline"])
        if any(text in part for part in process.info["cmdline"] or [])
    ]


def test_local_cluster_serves_jobs_with_its_token_and_leaves_nothing() -> None:
    with local_cluster(num_cpus=1) as cluster:
        folder = Path(cluster.environment["RAY_AUTH_TOKEN_PATH"]).parent
        assert processes_with(str(folder))
        assert httpx.get(f"{cluster.dashboard}/api/jobs/").status_code == 401
        count = subprocess.run(
            [
                sys.executable,
                "-c",
                "import ray; ray.init(); print(int(ray.cluster_resources()['CPU']))",
            ],
            env={**os.environ, **cluster.environment},
            capture_output=True,
            text=True,
            check=True,
        )
        assert count.stdout.strip() == "1"
    assert processes_with(str(folder)) == []
    assert not folder.exists()


def test_local_cluster_that_cannot_start_raises_the_end_of_its_log(tmp_path: Path) -> None:
    log = tmp_path / "head.log"
    with pytest.raises(ClusterError, match="Ray head"), local_cluster(num_cpus=-1, log=log):
        pytest.fail("a head with -1 CPUs came up")
    assert log.stat().st_size > 0


def test_local_cluster_of_a_killed_process_ends_by_itself() -> None:
    code = (
        "from ray_jobs.cluster.head import local_cluster\n"
        "with local_cluster(num_cpus=1) as c:\n"
        "    print(c.environment['RAY_AUTH_TOKEN_PATH'], flush=True)\n"
        "    input()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        folder = str(Path(parent.stdout.readline().strip()).parent)
        assert processes_with(folder)
        parent.kill()
    deadline = time.monotonic() + 60
    while processes_with(folder) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert processes_with(folder) == []
    shutil.rmtree(folder)


def test_free_ports_are_distinct() -> None:
    ports = free_ports(20)
    assert len(set(ports)) == 20
