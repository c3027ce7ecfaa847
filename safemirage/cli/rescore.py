"""`safemirage rescore`: stored answers, other judges."""

from typing import Annotated

import typer

from safemirage.cli.output import JsonOption, tables, write_json
from safemirage.cli.progress import progress_bars
from safemirage.config.rates import ProtocolName


def rescore(
    evaluation: Annotated[str, typer.Argument(help="By id, name or config file.")],
    judge: Annotated[
        list[str],
        typer.Option("--judge", help="A built-in judge's name, or a YAML file; repeatable."),
    ],
    protocol: Annotated[
        ProtocolName, typer.Option("--protocol", help="Whose rules count.")
    ] = "corrected",
    json_path: JsonOption = None,
) -> None:
    """Judge the answers of a finished evaluation again. The evaluated model is not asked."""
    import asyncio

    from safemirage.evaluation.generators.asking import ModelCalls
    from safemirage.evaluation.reports.terminal import finished_result, print_results
    from safemirage.evaluation.run.archive import find_evaluation, load_evaluation
    from safemirage.evaluation.run.preflight import require
    from safemirage.evaluation.run.rescore import read_judges
    from safemirage.evaluation.run.rescore import rescore as run_rescore
    from safemirage.settings import read_settings
    from safemirage.store import open_store

    judges = read_judges(judge)
    require(judges, key="judges")
    calls = ModelCalls()
    settings = read_settings()
    with open_store(settings.store_url) as store, progress_bars() as on_progress:
        original = load_evaluation(store, find_evaluation(store, evaluation, settings))
        ended = asyncio.run(
            run_rescore(
                original,
                judges,
                store=store,
                protocol=protocol,
                on_progress=lambda done, total: on_progress(original.name, done, total),
                calls=calls,
            )
        )
    result = finished_result(ended, calls)
    print_results(tables(json_path), [result])
    write_json(json_path, result.tree())
