"""`safemirage report`: finished evaluations as one page and as tables for papers."""

from pathlib import Path
from typing import Annotated

import typer


def report(
    evaluations: Annotated[list[str], typer.Argument(help="By id, name or config file.")],
    out: Annotated[
        Path, typer.Option("--out", help="Folder for report.html, report.md, .tex and .json.")
    ] = Path("report"),
    title: Annotated[str, typer.Option("--title", help="Heading.")] = "Safety evaluation",
    samples: Annotated[
        int, typer.Option("--samples", min=0, help="Samples of each condition on the page.")
    ] = 2,
) -> None:
    """Write rates before and after each attack as HTML, Markdown, LaTeX and JSON, and print the table."""
    from importlib.metadata import version

    from safemirage.evaluation.reports.rates import rates_grid
    from safemirage.evaluation.reports.report import ReportInput, ReportModel, write_report
    from safemirage.evaluation.reports.terminal import print_grid, screen
    from safemirage.evaluation.run.archive import load_evaluations
    from safemirage.settings import read_settings
    from safemirage.store import open_store

    settings = read_settings()
    with open_store(settings.store_url) as store:
        models = [
            ReportModel(name=one.name, evaluation_id=one.id, config=one.record.config)
            for one in load_evaluations(store, evaluations, settings)
        ]
        given = ReportInput(
            title=title,
            models=models,
            versions={"safemirage": version("safemirage")},
            samples_per_condition=samples,
        )
        written = write_report(store, given, out)
    console = screen()
    print_grid(console, rates_grid(written.rows, title=title))
    for grid in (written.gaps, written.pictures):
        if grid is not None:
            print_grid(console, grid)
    for model in models:
        console.print(f"{model.name} is evaluation {model.evaluation_id}", soft_wrap=True)
    for path in (written.html, written.markdown, written.latex, written.json):
        console.print(str(path), soft_wrap=True)
