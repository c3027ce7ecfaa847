"""`safemirage demo`: the whole chain on a Ray of its own, submitted by `ray job submit` and followed to its end.

Everything it makes lies under runs/demo/seed-N. Interrupted and started again, it continues. A running cluster is
used where RAY_ADDRESS is set. Nothing is left running, but with --keep service and dashboards stay until Ctrl-C.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from ray_jobs.cluster.head import (
    LOOPBACK,
    ClusterAddress,
    free_ports,
    local_cluster,
    wait_to_be_ended,
)
from safemirage.config.loading.load import ConfigError
from safemirage.settings import Settings
from safemirage.store.tokens import USUAL, TokenFile

CONFIG = "configs:reproduce/miniature.yaml"
PROJECT = Path(__file__).parents[1]
IS_CHECKOUT = (PROJECT / "pyproject.toml").is_file()
"""Whether the packages lie in a checkout; else they are installed, for a job too, and nothing is uploaded."""
_CHATTER = re.compile(
    r"^[\d-]+ [\d:,]+\s(INFO|SUCC) \S+\.py:\d+ -- "
    r"|WARNING working_dir\.py:\d+ -- Directory '\.(git|venv)' is now ignored"
    r"|^INFO [\d-]+ [\d:,]+ serve \d+ -- "
    r"|\(raylet\).* WARNING: \d+ PYTHON worker processes have been started"
    r"|\(raylet\) Task ServeController\.graceful_shutdown failed\..* killed by `ray\.kill`"
)
"""What `ray job submit`, Serve and the raylet say of themselves; all other warnings and errors of theirs are shown.
The last line is Serve's ordinary end: its controller is killed before the call that asked for it has returned."""
_STYLE = re.compile(r"\x1b\[[\d;]*m")
"""What colours Ray's lines, also where nothing shows colours."""
console = Console()


@dataclass(frozen=True, kw_only=True)
class Demo:
    seed: int
    keep: bool
    overrides: tuple[str, ...]
    settings: Settings
    """The demo's own settings, whatever the environment says."""
    port: int

    @property
    def root(self) -> Path:
        return self.settings.storage.root

    @property
    def token_file(self) -> Path:
        return self.root / "api-token"

    @property
    def api(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"


def run_command(overrides: Sequence[str], *, seed: int, keep: bool) -> int:
    """What `safemirage demo` does; returns its exit code."""
    demo = Demo(
        seed=seed,
        keep=keep,
        overrides=tuple(overrides),
        settings=Settings.at(Path("runs", "demo", f"seed-{seed}")),
        port=free_ports(1)[0],
    )
    _write_token(demo.token_file, TokenFile(demo.settings.storage.tokens))
    with ExitStack() as stack:
        cluster = _joined_cluster() or stack.enter_context(
            local_cluster(log=demo.root / "ray-head.log")
        )
        console.print(
            f"Ray dashboard {cluster.dashboard}   evaluation API {demo.api}   storage {demo.root}"
        )
        code = _run_job(demo, cluster)
        if code == 0:
            _say_where(demo, cluster)
            if demo.keep:
                _hold(demo)
    return code


def _joined_cluster() -> ClusterAddress | None:
    """The cluster that RAY_ADDRESS names; its jobs API must be in RAY_API_SERVER_ADDRESS."""
    gcs = os.environ.get("RAY_ADDRESS")
    if not gcs:
        return None
    dashboard = os.environ.get("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:8265")
    return ClusterAddress(gcs=gcs, dashboard=dashboard, environment={})


def _write_token(path: Path, tokens: TokenFile) -> None:
    """A bearer token of this demo's own, readable by its user only; kept from one start to the next."""
    if path.exists() and any(one.name == "demo" for one in tokens.records()):
        return
    with suppress(ConfigError):  # there is none yet
        tokens.revoke("demo")
    _, token = tokens.create("demo", (*USUAL, "unredacted"))
    path.touch(mode=0o600)
    path.write_text(f"{token}\n")


def _run_job(demo: Demo, cluster: ClusterAddress) -> int:
    """Submits the chain and shows its output and progress. Returns the exit code of `ray job submit`."""
    job_environment = {
        **demo.settings.job_variables(),
        "SAFEMIRAGE_API_TOKEN_FILE": str(demo.token_file),
        "PYTHONUNBUFFERED": "1",
        # The job writes no terminal; its tables are to fit the one that they are shown on.
        **({"COLUMNS": str(console.width)} if console.is_terminal else {}),
    }
    command = [
        sys.executable, "-m", "ray.scripts.scripts", "job", "submit",
        "--address", cluster.dashboard,
        *(["--working-dir", str(PROJECT)] if IS_CHECKOUT else []),
        "--submission-id", f"demo-seed-{demo.seed}-{int(time.time())}",
        "--runtime-env-json", json.dumps({"env_vars": job_environment}),
        "--log-style", "record",
        "--", sys.executable, "-m", "ray_jobs.reproduce", CONFIG, f"seed={demo.seed}",
        f"serve_overrides=[port={demo.port}]", f"keep_service={str(demo.keep).lower()}",
        *demo.overrides,
    ]  # fmt: skip
    environment = {**os.environ, **cluster.environment}
    with subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as job:
        try:
            show_lines(job)
        except KeyboardInterrupt:
            console.print("Interrupted. The same command continues where this stopped.")
            job.send_signal(signal.SIGINT)
            job.wait()
            return 130
    return job.returncode


def show_lines(job: subprocess.Popen[str]) -> None:
    """Prints what the job says of itself, until its output ends."""
    assert job.stdout is not None
    for line in job.stdout:
        if not _CHATTER.search(plain := _STYLE.sub("", line)):
            print(plain, end="", flush=True)


def _say_where(demo: Demo, cluster: ClusterAddress) -> None:
    # The job's own last line names the report.
    console.print(f"\nnumbers      {demo.root / 'report.json'}")
    if not demo.keep:
        again = f"safemirage demo --seed {demo.seed} --keep"
        if IS_CHECKOUT:
            again = f"make demo SEED={demo.seed} KEEP=1"
        console.print(
            f"dashboards   {again}   holds API, study page, Ray and MLflow open (nothing is run twice)"
        )
        return
    console.print(f"API, page    {demo.api}/   token in {demo.token_file}")
    console.print(f"API docs     {demo.api}/docs")
    console.print(f"Ray          {cluster.dashboard}")


def _hold(demo: Demo) -> None:
    with _mlflow_server(demo) as url:
        console.print(f"MLflow       {url}\n\nCtrl-C ends them all.")
        wait_to_be_ended()


@contextmanager
def _mlflow_server(demo: Demo) -> Iterator[str]:
    port = free_ports(1)[0]
    log = demo.root / "mlflow-server.log"
    command = [
        sys.executable, "-m", "mlflow", "server", "--host", LOOPBACK, "--port", str(port),
        "--backend-store-uri", demo.settings.tracking_uri, "--workers", "1",
    ]  # fmt: skip
    with log.open("ab") as stream:
        server = subprocess.Popen(command, stdout=stream, stderr=stream, stdin=subprocess.DEVNULL)
    try:
        yield f"http://{LOOPBACK}:{port}"
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    from safemirage.cli import main

    main(["demo", *sys.argv[1:]])
