"""`safemirage evaluate`: one evaluation in this process, without Ray and without a service."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from safemirage.cli.options import OverridesArgument
from safemirage.cli.progress import progress_bars

_INTERRUPTED = 130  # what a shell reports of a program that Ctrl-C ended


def evaluate(
    config: Annotated[Path, typer.Argument(help="A file like configs/evaluate/url.yaml.")],
    overrides: OverridesArgument = None,
    json_path: Annotated[
        Path | None, typer.Option("--json", help="Write table, id and calls here.")
    ] = None,
) -> None:
    """Asks a model every question of a suite, judges the answers, and prints the rates.

    What the store knows is not asked again: a second run calls no model, and one that was cut off goes on.
    """
    import asyncio

    from safemirage.config.evaluate import EvaluateConfig
    from safemirage.evaluation.calls import ModelCalls
    from safemirage.evaluation.local import run_evaluation
    from safemirage.evaluation.preflight import require
    from safemirage.evaluation.results import finished_result
    from safemirage.evaluation.tables import screen
    from safemirage.settings import load_located, read_settings
    from safemirage.store import open_store

    settings = read_settings()
    loaded = load_located(EvaluateConfig, config, overrides or (), settings)
    require(loaded)
    calls = ModelCalls()
    with open_store(settings.store_url) as store, progress_bars() as on_progress:
        try:
            ended = asyncio.run(
                run_evaluation(
                    loaded,
                    store=store,
                    on_progress=lambda done, total: on_progress(loaded.name, done, total),
                    calls=calls,
                )
            )
        except KeyboardInterrupt:
            Console(stderr=True).print("interrupted; the same command goes on where it was")
            raise typer.Exit(_INTERRUPTED) from None
    result = finished_result(ended, calls)
    result.print_to(screen())
    if json_path is not None:
        json_path.write_text(result.json(), encoding="utf-8")
