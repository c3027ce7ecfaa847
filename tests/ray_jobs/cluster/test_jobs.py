"""What the demo shows of a job: its own lines, and not those about its submission."""

import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from ray_jobs.cluster.jobs import follow
from safemirage.settings import Settings

LINES = """\
2026-11-20 20:17:40,346\tSUCC cli.py:66 -- Job 'demo' submitted successfully
INFO 2026-11-20 20:18:01,273 serve 29891 -- Started Serve in namespace "serve".
[1/7] base
2026-11-20 20:17:40,347\tWARN cli.py:330 -- something is odd
2026-11-20 20:17:40,347\tERR cli.py:330 -- the job failed
\x1b[33m(raylet)\x1b[0m Task ServeController.graceful_shutdown failed. There are infinite retries remaining, so the task \
will be retried. Error: The actor is dead because it was killed by `ray.kill`.
\x1b[33m(raylet)\x1b[0m Task train failed. Error: a node was lost.
"""


def job() -> subprocess.Popen[str]:
    command = [sys.executable, "-c", f"print({LINES!r}, end='')"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("is_terminal", [False, True])
def test_follow_shows_lines_of_the_job_and_its_warnings(
    is_terminal: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with job() as process:
        follow(process, Settings.at(tmp_path), Console(force_terminal=is_terminal, width=200))
    shown = capsys.readouterr().out
    assert "[1/7] base" in shown
    assert "something is odd" in shown
    assert "the job failed" in shown
    assert "submitted successfully" not in shown
    assert "Started Serve" not in shown
    assert "graceful_shutdown" not in shown
    assert "\x1b[33m" not in shown
    assert "(raylet) Task train failed. Error: a node was lost." in shown
