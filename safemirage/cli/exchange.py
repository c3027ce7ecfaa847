"""`safemirage export` and `safemirage import`: an evaluation from one store to another, as Parquet; and to Inspect."""

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console


def export_evaluation(
    evaluation: Annotated[str, typer.Argument(help="By id, name or config file.")],
    folder: Annotated[Path, typer.Argument(help="Where the files go.")],
    format: Annotated[
        Literal["parquet", "inspect"],
        typer.Option(
            help="inspect: an .eval log a condition, for `inspect view --log-dir FOLDER`."
        ),
    ] = "parquet",
    images: Annotated[bool, typer.Option(help="Write the images too.")] = True,
) -> None:
    """Write a finished evaluation, nothing redacted: as samples.parquet, verdicts.parquet and images.parquet, which
    `safemirage import` reads, or as Inspect's logs."""
    from safemirage.evaluation.run.archive import find_evaluation
    from safemirage.settings import read_settings
    from safemirage.store import open_store

    settings = read_settings()
    with open_store(settings.store_url) as store:
        found = find_evaluation(store, evaluation, settings)
        if format == "inspect":
            from safemirage.evaluation.reports.inspect import write_inspect_logs

            paths = write_inspect_logs(store, found, folder, with_images=images)
        else:
            from safemirage.evaluation.run.parquet import export_evaluation as write_parquet

            paths = write_parquet(store, found.id, folder, with_images=images)
    for path in paths:
        Console().print(str(path), soft_wrap=True)


def import_evaluation(
    folder: Annotated[Path, typer.Argument(help="Folder of the files that export wrote.")],
) -> None:
    """Take an exported evaluation into this store, under its own id."""
    from safemirage.evaluation.errors import EvaluationError
    from safemirage.evaluation.run.parquet import import_evaluation as read
    from safemirage.settings import read_settings
    from safemirage.store import open_store
    from safemirage.store.evaluations import IdempotencyConflict

    settings = read_settings()
    with open_store(settings.store_url) as store:
        try:
            taken = read(store, folder)
        except IdempotencyConflict as error:
            raise EvaluationError(str(error)) from error
    Console().print(f"evaluation {taken.id}: {taken.done} samples", soft_wrap=True)
