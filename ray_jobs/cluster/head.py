"""A Ray cluster of our own: a head started as a child process, on free ports, ended by its handle.

    python -m ray_jobs.cluster.head        starts one on the loopback address and holds it until interrupted

An existing cluster is joined only where RAY_ADDRESS is set; `ray stop` is never called, because it ends every
Ray process of the user.
"""

import ctypes
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

LOOPBACK = "127.0.0.1"
_PR_SET_PDEATHSIG = 1


class ClusterError(RuntimeError):
    """The cluster did not come up, or went away."""


@dataclass(frozen=True, kw_only=True)
class ClusterAddress:
    """How a process reaches a cluster. `environment` is what its own environment must hold."""

    gcs: str
    """The address `host:port` for `ray.init`."""
    dashboard: str
    """URL of the dashboard and of the jobs API."""
    environment: dict[str, str]


def free_ports(count: int) -> list[int]:
    """Distinct ports that nobody listens on now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for item in sockets:
            item.bind((LOOPBACK, 0))
        return [int(item.getsockname()[1]) for item in sockets]
    finally:
        for item in sockets:
            item.close()


@contextmanager
def local_cluster(
    *,
    num_cpus: int | None = None,
    log: Path | None = None,
    start_timeout_s: float = 90,
) -> Iterator[ClusterAddress]:
    """A head node on this machine with its dashboard and token authentication, ended on leaving.

    Args:
        num_cpus: logical CPUs; default as many as the machine has.
        log: where the head's own output goes; default beside its other logs, which are removed with it.

    Raises:
        ClusterError: the head ended or did not answer in time; the message holds the end of its log.
    """
    folder = Path(
        tempfile.mkdtemp(prefix="sm", dir="/tmp")
    )  # short: Unix socket paths end at 107 bytes
    token = folder / "token"
    # Made private before the secret is in it.
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    ports = free_ports(8)
    address = ClusterAddress(
        gcs=f"{LOOPBACK}:{ports[0]}",
        dashboard=f"http://{LOOPBACK}:{ports[1]}",
        environment={
            "RAY_ADDRESS": f"{LOOPBACK}:{ports[0]}",
            "RAY_API_SERVER_ADDRESS": f"http://{LOOPBACK}:{ports[1]}",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
        },
    )
    output = log or folder / "head.log"
    with output.open("ab") as stream:
        head = subprocess.Popen(
            _head_command(folder, ports, num_cpus or os.cpu_count() or 1),
            env={
                **os.environ,
                **address.environment,
                "RAY_ADDRESS": "",
                "RAY_DISABLE_IMPORT_WARNING": "1",
            },
            stdout=stream,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            # Ctrl-C in a terminal reaches this process alone, which then ends the head in order.
            start_new_session=True,
            preexec_fn=_end_with_parent,
        )
    try:
        _wait_until_up(head, address, output, start_timeout_s)
        yield address
    finally:
        _end(head)
        shutil.rmtree(folder, ignore_errors=True)


def _end_with_parent() -> None:
    """Runs in the child before it becomes the head: it is told to end when this process ends, however that comes."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _head_command(folder: Path, ports: list[int], num_cpus: int) -> list[str]:
    gcs, dashboard, agent_http, agent_grpc, metrics, runtime_env, client, node_manager = ports
    return [
        sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block",
        "--disable-usage-stats",
        f"--node-ip-address={LOOPBACK}",
        f"--port={gcs}",
        "--include-dashboard=true",
        f"--dashboard-host={LOOPBACK}",
        f"--dashboard-port={dashboard}",
        f"--dashboard-agent-listen-port={agent_http}",
        f"--dashboard-agent-grpc-port={agent_grpc}",
        f"--metrics-export-port={metrics}",
        f"--runtime-env-agent-port={runtime_env}",
        f"--ray-client-server-port={client}",
        f"--node-manager-port={node_manager}",
        f"--num-cpus={num_cpus}",
        f"--object-store-memory={256 * 1024 * 1024}",
        f"--temp-dir={folder}",
    ]  # fmt: skip


def _wait_until_up(
    head: subprocess.Popen[bytes], address: ClusterAddress, log: Path, timeout_s: float
) -> None:
    headers = {
        "Authorization": f"Bearer {Path(address.environment['RAY_AUTH_TOKEN_PATH']).read_text()}"
    }
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if head.poll() is not None:
            raise ClusterError(f"the Ray head ended with {head.returncode}:\n{_tail(log)}")
        try:
            if _has_node(
                httpx.get(f"{address.dashboard}/nodes?view=summary", headers=headers, timeout=5)
            ):
                return
        except httpx.TransportError:
            pass  # not listening yet
        time.sleep(0.2)
    raise ClusterError(f"the Ray head did not answer within {timeout_s:g} s:\n{_tail(log)}")


def _has_node(response: httpx.Response) -> bool:
    """Whether the dashboard knows a node that takes work; it answers before there is one."""
    if not response.is_success:
        return False
    nodes = response.json()["data"]["summary"]
    return any(node["raylet"].get("state") == "ALIVE" for node in nodes)


def _tail(log: Path, lines: int = 20) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])


def _end(head: subprocess.Popen[bytes], grace_s: float = 15) -> None:
    """Ends the head and all that came of it, by their handles."""
    try:
        # Taken down before the head ends: afterwards its children have another parent.
        family = [*psutil.Process(head.pid).children(recursive=True), psutil.Process(head.pid)]
    except psutil.NoSuchProcess:
        family = []
    if head.poll() is None:
        head.send_signal(signal.SIGTERM)
    # Ray ends its own processes when the head is asked to; what is left after that is killed.
    _, alive = psutil.wait_procs(family, timeout=grace_s)
    for process in alive:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(alive, timeout=grace_s)
    head.wait()


def wait_to_be_ended() -> None:
    """Returns at Ctrl-C or SIGTERM, so that what was started can be ended. Later ones wait for the process's end."""
    signals = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    signal.sigwait(signals)


def main() -> None:
    with local_cluster() as cluster:
        for name, value in cluster.environment.items():
            print(f"export {name}={value}")
        print(f"# dashboard: {cluster.dashboard}   (Ctrl-C ends it)", flush=True)
        wait_to_be_ended()


if __name__ == "__main__":
    main()
