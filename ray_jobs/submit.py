"""`safemirage submit`: `ray job submit` with what a job of ours needs, and its log followed to the end.

The same by hand: docs/guides/running.md. A submitted job is `python -m ray_jobs.COMMAND` on the cluster's head.
"""

import asyncio
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safemirage.config.loading.load import ConfigError
from safemirage.settings import read_settings

_TOKEN_FILE = Path("~/.ray/auth_token")


def run_command(
    module: str,
    arguments: Sequence[str],
    *,
    address: str | None,
    working_dir: Path | None,
    python: str,
    wait: bool,
) -> int:
    """Submits a job and follows it; returns the command's exit code: 0 when the job has succeeded or need not be waited for.

    Args:
        module: what the job runs, such as `ray_jobs.train`.
        arguments: the run file and overrides.
        address: of the cluster's dashboard, `http://HOST:8265`; None takes RAY_API_SERVER_ADDRESS, RAY_ADDRESS, or a
            head on this machine.
        working_dir: the folder whose code is uploaded, as its `.rayignore` says; None uploads nothing, for clusters
            where safemirage is installed.
        python: the interpreter on the head.

    Raises:
        ConfigError: no head answers there, or it refuses the job.
    """
    if _TOKEN_FILE.expanduser().is_file():
        # A head that finds the file asks for the token without being told; a client sends it only when it is told.
        # Ray reads the variable once, when it is imported.
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    from ray.job_submission import JobStatus, JobSubmissionClient

    environment = {"env_vars": read_settings().job_variables()}
    try:
        client = JobSubmissionClient(address)
        job = client.submit_job(
            entrypoint=shlex.join([python, "-m", module, *arguments]),
            runtime_env=environment | ({"working_dir": str(working_dir)} if working_dir else {}),
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        place = address or os.environ.get("RAY_API_SERVER_ADDRESS") or os.environ.get("RAY_ADDRESS")
        raise ConfigError(
            f"--address: {place or 'none given, and no head runs here'}: {error}. It is the address of the cluster's "
            "dashboard, such as http://127.0.0.1:8265"
        ) from error
    _say(f"job {job}: its page is {client.get_address()}/#/jobs/{job}")
    if not wait:
        return 0
    try:
        asyncio.run(_follow(client, job))
    except KeyboardInterrupt:
        _say(
            f"\nthe job goes on. Follow it: ray job logs --follow {job}   End it: ray job stop {job}"
        )
        return 130
    status = client.get_job_status(job)
    _say(f"job {job}: {status.value.lower()}")
    return 0 if status == JobStatus.SUCCEEDED else 1


async def _follow(client: Any, job: str) -> None:
    async for text in client.tail_job_logs(job):
        sys.stdout.write(text)
        sys.stdout.flush()


def _say(line: str) -> None:
    print(line, flush=True)
