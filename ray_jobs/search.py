"""Searches the settings of a train file for several objectives: Ray Tune over Ray Train, points from Optuna.

    safemirage search CONFIG.yaml [a.b=c ...] [--plan]
    ray job submit --working-dir . -- python -m ray_jobs.search CONFIG.yaml [a.b=c ...]        the same as a job

`--plan` says what the search would cost and what is missing, and starts nothing.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from safemirage.config.plan import load_search
from safemirage.settings import api_key_names, read_settings
from safemirage.store.execution import RunInterrupted


def run_command(file: Path, overrides: Sequence[str], *, plan: bool = False) -> int:
    """What `safemirage search` does; returns its exit code."""
    search = load_search(file, overrides)
    settings = read_settings(secrets=api_key_names(search.config))
    if plan:
        from ray_jobs.tune.cost import describe_plan, missing_of_plan

        missing = missing_of_plan(search, settings)
        print(describe_plan(search, settings))
        print("\n".join(["missing:", *missing]) if missing else "nothing is missing here")
        return 2 if missing else 0
    # On use: a plan is printed within seconds, without Ray and PyTorch.
    from ray_jobs.cluster.environment import connect
    from ray_jobs.tune.outcome import SearchFailed
    from ray_jobs.tune.search import run_search, show

    connect(settings)
    try:
        outcome = run_search(search, settings=settings)
    except SearchFailed as error:
        print(error, file=sys.stderr)
        return 1
    except RunInterrupted as error:
        print(error, file=sys.stderr)
        return 130
    print(show(outcome))
    return 0


if __name__ == "__main__":
    from safemirage.cli import main

    main(["search", *sys.argv[1:]])
