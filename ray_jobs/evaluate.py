"""Models x suites over a Ray cluster.

    safemirage evaluate CONFIG.yaml --ray --model EXPORT ... --suite FOLDER ... [a.b=c ...]
    ray job submit --working-dir . -- python -m ray_jobs.evaluate CONFIG.yaml ...        the same as a job

An engine loads a checkpoint once for all its suites; judges' models are loaded once for all.
"""

import asyncio
import os
import sys
from collections.abc import Sequence
from functools import partial

from ray_jobs.cluster.capacity import concurrent_engines, engine_resources
from ray_jobs.cluster.environment import connect
from ray_jobs.cluster.preflight import local_node
from safemirage.config.evaluate import EvaluateConfig
from safemirage.config.generators import OpenAIConfig
from safemirage.evaluation.run.matrix import OnProgressOf, Outcome, judging_models, run_many
from safemirage.evaluation.run.preflight import require
from safemirage.settings import Settings
from safemirage.store.database import open_store


def run(
    configs: Sequence[EvaluateConfig],
    *,
    cpus: float | None,
    gpus: float | None,
    on_progress_of: OnProgressOf,
    settings: Settings,
) -> list[Outcome]:
    """The evaluations on the cluster of RAY_ADDRESS, or on one of this process's own.

    Args:
        cpus, gpus: what an engine reserves; None: see `engine_resources`.

    Raises:
        PreflightError: lists everything that is missing.
        CapacityError: the cluster cannot hold one engine beside the judges'.
        GenerationError, ConfigError: a judge's model cannot be opened.
    """
    if not os.environ.get("RAY_ADDRESS"):  # before a cluster of its own is started
        require(*configs, gpus=int(local_node()["GPU"]))
    from ray_jobs.cluster.nodes import possible_resources
    from ray_jobs.worker.engines import open_engine

    connect(settings)
    nodes = possible_resources()
    require(*configs, gpus=int(sum(node.get("GPU", 0) for node in nodes)))
    judges = [m for m in judging_models(configs).values() if not isinstance(m, OpenAIConfig)]
    resources = engine_resources(configs[0].model, cpus, gpus)
    engines = concurrent_engines(nodes, resources, judges=len(judges))
    with open_store(settings.store_url) as store:
        return asyncio.run(
            run_many(
                configs,
                store=store,
                open_model=partial(open_engine, resources=resources, secrets=settings.secrets),
                engines=engines,
                on_progress_of=on_progress_of,
            )
        )


if __name__ == "__main__":
    from safemirage.cli import main

    main(["evaluate", "--ray", *sys.argv[1:]])
