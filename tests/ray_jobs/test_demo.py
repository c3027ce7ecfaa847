"""What the demo shows of its job: the job's own lines, and not those about its submission."""

import subprocess
import sys

import pytest

from ray_jobs.demo import show_lines

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
SHOWN = """\
[1/7] base
2026-11-20 20:17:40,347\tWARN cli.py:330 -- something is odd
2026-11-20 20:17:40,347\tERR cli.py:330 -- the job failed
(raylet) Task train failed. Error: a node was lost.
"""


def test_demo_shows_lines_of_the_job_and_its_warnings(capsys: pytest.CaptureFixture[str]) -> None:
    command = [sys.executable, "-c", f"print({LINES!r}, end='')"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as job:
        show_lines(job)
    assert capsys.readouterr().out == SHOWN
