"""`safemirage compare`: what changed from one evaluation to others, paired by sample."""

from pathlib import Path
from typing import Annotated

import typer


def compare(
    baseline: Annotated[str, typer.Argument(help="Evaluation by id, name or config file.")],
    others: Annotated[list[str], typer.Argument(help="What is compared with it, likewise.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Folder for compare.html, compare.md, .tex and .json."),
    ] = None,
    flips: Annotated[
        int, typer.Option("--flips", min=0, help="Flipped samples of each change on the page.")
    ] = 20,
) -> None:
    """Compare evaluations sample by sample: rates, differences with intervals, exact p-values, and what flipped."""
    from safemirage.evaluation.metrics.changes import compare_evaluations
    from safemirage.evaluation.metrics.gap import condition_gaps
    from safemirage.evaluation.reports.comparison import comparison_grids, write_comparison
    from safemirage.evaluation.reports.terminal import print_grid, screen
    from safemirage.evaluation.run.archive import load_evaluations
    from safemirage.settings import read_settings
    from safemirage.store import open_store

    console = screen()
    settings = read_settings()
    with open_store(settings.store_url) as store:
        comparison = compare_evaluations(load_evaluations(store, [baseline, *others], settings))
        gaps = condition_gaps(comparison.evaluations)
        for grid in comparison_grids(comparison, gaps):
            print_grid(console, grid)
        if out is not None:
            for path in write_comparison(store, comparison, gaps, out, flips_shown=flips):
                console.print(str(path), soft_wrap=True)
