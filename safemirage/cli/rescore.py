"""`safemirage rescore`: stored answers, other judges."""

from pathlib import Path
from typing import Annotated

import typer

from safemirage.cli.progress import progress_bars


def rescore(
    evaluation: Annotated[str, typer.Argument(help="By id, name or config file.")],
    judge: Annotated[
        list[str],
        typer.Option("--judge", help="A built-in judge's name, or a YAML file; repeatable."),
    ],
    protocol: Annotated[
        str, typer.Option("--protocol", help="Whose rules count: corrected or paper.")
    ] = "corrected",
    json_path: Annotated[
        Path | None, typer.Option("--json", help="Write table, id and calls here.")
    ] = None,
) -> None:
    """Judges the answers of a finished evaluation again. The evaluated model is not asked."""
    import asyncio

    from safemirage.config.evaluate import check_protocol
    from safemirage.evaluation.calls import ModelCalls
    from safemirage.evaluation.preflight import require
    from safemirage.evaluation.rescore import read_judges
    from safemirage.evaluation.rescore import rescore as run_rescore
    from safemirage.evaluation.results import finished_result
    from safemirage.evaluation.stored import find_evaluation, load_evaluation
    from safemirage.evaluation.tables import screen
    from safemirage.settings import read_settings
    from safemirage.store import open_store

    judges = read_judges(judge)
    require(judges, key="judges")
    try:
        reading = check_protocol(protocol)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--protocol") from error
    calls = ModelCalls()
    settings = read_settings()
    with open_store(settings.store_url) as store, progress_bars() as on_progress:
        original = load_evaluation(store, find_evaluation(store, evaluation, settings))
        ended = asyncio.run(
            run_rescore(
                original,
                judges,
                store=store,
                protocol=reading,
                on_progress=lambda done, total: on_progress(original.name, done, total),
                calls=calls,
            )
        )
    result = finished_result(ended, calls)
    result.print_to(screen())
    if json_path is not None:
        json_path.write_text(result.json(), encoding="utf-8")
