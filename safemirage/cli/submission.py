"""`safemirage submission`: the file that an evaluation server wants."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console


def submission(
    evaluation: Annotated[
        str, typer.Argument(help="Of a test set of VQA v2 or VizWiz: by id, name or config file.")
    ],
    out: Annotated[Path, typer.Option("--out", help="The JSON file to write.")],
    all_questions: Annotated[
        Path | None,
        typer.Option(
            "--all-questions",
            help="VQA v2's question file of the whole test set, where test-dev alone was asked.",
        ),
    ] = None,
) -> None:
    """Writes the answers of a finished evaluation as its official submission file, and reads it again."""
    from safemirage.evaluation.stored import find_evaluation, load_evaluation
    from safemirage.evaluation.submission import write_submission
    from safemirage.settings import read_settings
    from safemirage.store import open_store

    settings = read_settings()
    with open_store(settings.store_url) as store:
        found = load_evaluation(store, find_evaluation(store, evaluation, settings))
    count = write_submission(found, out, all_questions=all_questions)
    Console().print(f"{out}: {count} answers, read again and complete", soft_wrap=True)
