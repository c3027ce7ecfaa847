"""`safemirage evaluate`: models x suites, in this process or over a Ray cluster."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from safemirage.cli.jobs import job
from safemirage.cli.options import OverridesArgument, RunFileArgument
from safemirage.cli.output import JsonOption, tables, write_json
from safemirage.cli.progress import progress_bars

if TYPE_CHECKING:
    from safemirage.config.evaluate import EvaluateConfig
    from safemirage.evaluation.run.matrix import Outcome
    from safemirage.progress import OnProgress


def evaluate(  # noqa: PLR0913 - options of a command
    config: RunFileArgument,
    overrides: OverridesArgument = None,
    model: Annotated[
        list[str] | None,
        typer.Option("--model", help="An export in place of model.path; repeatable."),
    ] = None,
    suite: Annotated[
        list[str] | None,
        typer.Option("--suite", help="A folder in place of the file's suite; repeatable."),
    ] = None,
    ray: Annotated[
        bool,
        typer.Option("--ray", help="Over the cluster of RAY_ADDRESS, or one of its own."),
    ] = False,
    cpus: Annotated[
        float | None, typer.Option("--cpus", help="With --ray: of each engine; default 1.")
    ] = None,
    gpus: Annotated[
        float | None,
        typer.Option("--gpus", help="With --ray: of each engine; default 1 where it uses one."),
    ] = None,
    url: Annotated[
        str | None,
        typer.Option(
            "--url",
            help="Let a service of `safemirage serve` do it, with the token in SAFEMIRAGE_API_TOKEN: exports and suites go "
            "by the names of their folders, judges by their titles.",
        ),
    ] = None,
    json_path: JsonOption = None,
) -> None:
    """Ask models every question of a suite, judge the answers, and print the rates.

    CONFIG is a file like configs/evaluate/url.yaml. Without --ray everything runs in this process, one model after
    another. With it an engine is loaded once for all suites of its model, as many side by side as the cluster holds.
    What the store knows is not asked again: a second run calls no model, and one that was cut off resumes. Exits with 1
    when an evaluation failed; with 2 when they cannot start as they are.
    """
    from safemirage.evaluation.run.matrix import load_configs, run_here
    from safemirage.settings import read_settings

    if not ray and (cpus is not None or gpus is not None):
        raise typer.BadParameter("needs --ray", param_hint="--cpus" if gpus is None else "--gpus")
    if url is not None and ray:
        raise typer.BadParameter("the service has a cluster of its own", param_hint="--ray")
    settings = read_settings()
    configs = load_configs(config, model or (), suite or (), overrides or (), settings)
    if url is not None:
        _evaluate_there(url, configs, json_path)
        return
    with progress_bars() as bars:

        def on_progress_of(one: "EvaluateConfig") -> "OnProgress":
            title = _title(one)
            return lambda done, total: bars(title, done, total)

        if ray:
            outcomes = job("evaluate")(
                configs, cpus=cpus, gpus=gpus, on_progress_of=on_progress_of, settings=settings
            )
        else:
            outcomes = run_here(configs, on_progress_of=on_progress_of, settings=settings)
    _show(outcomes, json_path, as_list=bool(model or suite))


def _evaluate_there(url: str, configs: "Sequence[EvaluateConfig]", json_path: Path | None) -> None:
    """Submits each to a service and follows it; a second call finds what the first one made."""
    from safemirage.config.evaluate import service_body
    from safemirage.evaluation.reports.rates import rates_grid
    from safemirage.evaluation.reports.terminal import print_grid
    from safemirage.evaluation.run.client import EvaluationClient
    from safemirage.store.records import Row

    token = os.environ.get("SAFEMIRAGE_API_TOKEN", "").split()
    bodies = [service_body(config) for config in configs]
    found = []
    with EvaluationClient(url, token[-1] if token else None) as client, progress_bars() as bars:
        for config, body in zip(configs, bodies, strict=True):
            title = _title(config)
            ended = client.run(
                body,
                on_progress=lambda seen, title=title: bars(  # type: ignore[misc]
                    title, seen["progress"]["done"], seen["progress"]["total"]
                ),
                timeout_s=float("inf"),
            )
            found.append(ended)
    rows = [Row(**row) for one in found for row in one["rows"]]
    print_grid(tables(json_path), rates_grid(rows))
    write_json(json_path, found[0] if len(found) == 1 else found)


def _show(outcomes: "Sequence[Outcome]", json_path: Path | None, *, as_list: bool) -> None:
    """Prints the rates of what finished and names what failed. Exits with 1 where something did."""
    from safemirage.evaluation.reports.terminal import finished_result, print_results

    results = [
        finished_result(one.evaluation, one.calls)
        for one in outcomes
        if one.evaluation is not None and not one.problem
    ]
    if results:
        print_results(tables(json_path), results)
    trees = [result.tree() for result in results]
    write_json(json_path, trees if as_list else trees[0] if trees else None)
    failed = {_title(one.config): one.problem for one in outcomes if one.problem}
    for title, problem in failed.items():
        Console(stderr=True).print(f"error: {title}: {problem}", markup=False, soft_wrap=True)
    if failed:
        raise typer.Exit(1)


def _title(config: "EvaluateConfig") -> str:
    from safemirage.config.evaluate import suite_name

    return f"{config.name} {suite_name(config)}"
