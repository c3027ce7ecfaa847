"""`safemirage utility`: what models can still do, as lmms-eval or VLMEvalKit measured it, beside what they refuse."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from safemirage.evaluation.utility.files import OtherScore


def utility(
    evaluations: Annotated[
        list[str] | None, typer.Argument(help="Finished ones, by id, name or config file.")
    ] = None,
    imports: Annotated[
        list[str] | None,
        typer.Option(
            "--import",
            help="A result file of lmms-eval or VLMEvalKit; NAME=FILE puts it into that model's line.",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for utility.md, .tex and .json.")
    ] = None,
) -> None:
    """Prints safety and utility, a line a model; the numbers of utility come from other tools' result files."""
    from safemirage.evaluation.reports.tables.utility import (
        model_lines,
        utility_grid,
        write_utility,
    )
    from safemirage.evaluation.reports.terminal import print_grid, screen
    from safemirage.evaluation.run.archive import load_evaluations
    from safemirage.settings import read_settings
    from safemirage.store import open_store

    if not evaluations and not imports:
        raise typer.BadParameter("give an evaluation, or a file to --import")
    others = [(name, score) for item in imports or () for name, score in _imported(item)]
    settings = read_settings()
    with open_store(settings.store_url) as store:
        lines = model_lines(load_evaluations(store, evaluations or [], settings), others)
    grid = utility_grid(lines)
    console = screen()
    print_grid(console, grid)
    if out is not None:
        for path in write_utility(lines, grid, out):
            console.print(str(path), soft_wrap=True)


def _imported(item: str) -> list[tuple[str, "OtherScore"]]:
    """The scores of `[NAME=]FILE`, each with its line's name."""
    from safemirage.evaluation.utility.files import read_results

    name, separator, path = item.partition("=")
    if not separator or Path(item).is_file():
        name, path = "", item
    scores = read_results(Path(path).expanduser())
    return [(name or score.model, score) for score in scores]
