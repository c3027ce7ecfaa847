"""Suites x checkpoints over a Ray cluster, or one after another in this process.

    python -m ray_jobs.evaluate CONFIG.yaml --model EXPORT ... --suite FOLDER ... [--local] [a.b=c ...]
    ray job submit --working-dir . -- python -m ray_jobs.evaluate configs/evaluate/transformers.yaml --model ... --suite ...

CONFIG names engine, judges and decoding; each --model takes the place of model.path, each --suite that of suite. An engine
loads a checkpoint once for all its suites; judges' models are loaded once for all. Everything goes through the store: a run
that was cut off goes on, and one that is repeated asks nothing. Exit codes: 0 all finished, 1 some failed, 2 a config or
a cluster that cannot be used.
"""

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ray_jobs.capacity import Placement, concurrent_engines, default_placement
from ray_jobs.environment import connect
from ray_jobs.preflight import local_node
from safemirage.config.evaluate import (
    EvaluateConfig,
    GeneratorConfig,
    OpenAIConfig,
    suite_name,
)
from safemirage.config.load import ConfigError
from safemirage.evaluation.generators import GenerationError, Generator
from safemirage.evaluation.generators.build import open_generator
from safemirage.evaluation.many import OnProgressOf, Outcome, judging_models, run_many
from safemirage.evaluation.metrics import Row, row_from
from safemirage.evaluation.preflight import require
from safemirage.evaluation.tables import print_rates, screen
from safemirage.progress import OnProgress
from safemirage.settings import Settings, load_located, read_settings
from safemirage.store.database import open_store


def load_configs(
    path: str,
    models: Sequence[str],
    suites: Sequence[str],
    overrides: Sequence[str],
    settings: Settings,
) -> list[EvaluateConfig]:
    """One config for each model and suite; without any of either, those of the file.

    Raises:
        ConfigError: see `load_config`; a model behind a URL has no path; two models of one folder name.
    """
    base = load_located(EvaluateConfig, path, overrides, settings)
    if models and isinstance(base.model, OpenAIConfig):
        raise ConfigError(
            "--model: the config's model is behind a URL and has no path; name an engine, e.g. model.name=vllm"
        )
    names = [Path(model).name for model in models]
    if len(set(names)) < len(names):
        raise ConfigError(
            f"--model: {list(models)} hold a folder name twice; tables tell models apart by it"
        )
    of_models = [
        [f"model.path={json.dumps(model)}", f"name={json.dumps(Path(model).name)}"]
        for model in models
    ]
    of_suites = [[f"suite={json.dumps(suite)}"] for suite in suites]
    return [
        load_located(EvaluateConfig, path, [*overrides, *of_model, *of_suite], settings)
        for of_model in of_models or [[]]
        for of_suite in of_suites or [[]]
    ]


def run(
    configs: Sequence[EvaluateConfig],
    *,
    placement: Placement | None,
    on_progress_of: OnProgressOf,
    settings: Settings,
) -> list[Outcome]:
    """The evaluations on the cluster; with no placement in this process, one model at a time.

    Raises:
        PreflightError: lists everything that is missing.
        CapacityError: the cluster cannot hold one engine beside the judges'.
        GenerationError, ConfigError: a judge's model cannot be opened.
    """
    open_model: Callable[[GeneratorConfig], AbstractAsyncContextManager[Generator]]
    if placement is None:
        open_model, engines = open_generator, 1
    else:
        from ray_jobs.engines import open_engine
        from ray_jobs.nodes import possible_resources

        connect(settings)
        nodes = possible_resources()
        require(*configs, gpus=int(sum(node.get("GPU", 0) for node in nodes)))
        judges = [m for m in judging_models(configs).values() if not isinstance(m, OpenAIConfig)]
        engines = concurrent_engines(nodes, placement.resources, judges=len(judges))
        open_model = partial(open_engine, resources=placement.resources, secrets=settings.secrets)
    with open_store(settings.store_url) as store:
        return asyncio.run(
            run_many(
                configs,
                store=store,
                open_model=open_model,
                engines=engines,
                on_progress_of=on_progress_of,
            )
        )


@contextmanager
def progress() -> Iterator[OnProgressOf]:
    """A bar for each evaluation on a terminal; elsewhere a line at each tenth."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())  # fmt: skip
    with Progress(*columns, console=console, disable=not console.is_terminal) as bars:

        def of(config: EvaluateConfig) -> OnProgress:
            title = f"{config.name} {suite_name(config)}"
            task = bars.add_task(title, total=None)
            tenths = 0

            def show(done: int, total: int) -> None:
                nonlocal tenths
                bars.update(task, completed=done, total=total)
                if not console.is_terminal and 10 * done // total > tenths:
                    tenths = 10 * done // total
                    print(f"{title}: {done}/{total}", file=sys.stderr, flush=True)

            return show

        yield of


def show(outcomes: Sequence[Outcome], console: Console) -> None:
    """A table for each suite, and below it what failed."""
    rows: dict[str, list[Row]] = {}
    for outcome in outcomes:
        ended = outcome.evaluation
        if ended is not None and ended.rows is not None:
            rows.setdefault(suite_name(outcome.config), []).extend(map(row_from, ended.rows))
    for suite, found in rows.items():
        print_rates(console, found, title=suite)
    asked = sum(outcome.calls.answers for outcome in outcomes)
    judged = sum(outcome.calls.verdicts for outcome in outcomes)
    console.print(f"{len(outcomes)} evaluations; {asked} questions and {judged} verdicts asked")
    for outcome in outcomes:
        if problem := _problem(outcome):
            console.print(
                f"{outcome.config.name} on {suite_name(outcome.config)}: {problem}", markup=False
            )


def _problem(outcome: Outcome) -> str:
    if outcome.evaluation is None:
        return outcome.error
    state = outcome.evaluation.state
    return "" if state == "finished" else f"{state} {outcome.evaluation.error or ''}".rstrip()


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m ray_jobs.evaluate")
    parser.add_argument("config")
    parser.add_argument("overrides", nargs="*", metavar="a.b=c")
    parser.add_argument("--model", action="append", default=[], help="an export; repeatable")
    parser.add_argument("--suite", action="append", default=[], help="a suite's folder; repeatable")
    parser.add_argument("--local", action="store_true", help="in this process, without Ray")
    parser.add_argument("--cpus", type=float, help="of each engine; default 1")
    parser.add_argument("--gpus", type=float, help="of each engine; default 1 where it uses one")
    return parser.parse_intermixed_args(list(arguments))


def main(arguments: Sequence[str]) -> int:
    if not arguments:
        print(__doc__)
        return 2
    options = _options(arguments)
    try:
        settings = read_settings()
        configs = load_configs(
            options.config, options.model, options.suite, options.overrides, settings
        )
        placement = None
        if options.local:
            require(*configs)
        else:
            if not os.environ.get("RAY_ADDRESS"):  # before a cluster of its own is started
                require(*configs, gpus=int(local_node()["GPU"]))
            placement = default_placement(configs[0].model, options.cpus, options.gpus)
        with progress() as on_progress_of:
            outcomes = run(
                configs, placement=placement, on_progress_of=on_progress_of, settings=settings
            )
    except (ConfigError, GenerationError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    show(outcomes, screen())
    return 1 if any(map(_problem, outcomes)) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
