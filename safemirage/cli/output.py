"""Where commands print: tables on standard output, or JSON in their place."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

JsonOption = Annotated[
    Path | None,
    typer.Option(
        "--json",
        metavar="FILE",
        help="Write everything here as JSON; - prints it in place of the tables.",
    ),
]
_STANDARD_OUTPUT = Path("-")


def tables(json_path: Path | None = None) -> Console:
    """The console of a command's tables; silent where its JSON goes to standard output."""
    from safemirage.evaluation.reports.terminal import screen

    console = screen()
    console.quiet = json_path == _STANDARD_OUTPUT
    return console


def write_json(path: Path | None, tree: Any) -> None:
    """Writes the tree where `--json` says; without that option nowhere."""
    if path is None:
        return
    text = json.dumps(tree, indent=1, allow_nan=False) + "\n"
    if path == _STANDARD_OUTPUT:
        sys.stdout.write(text)
    else:
        path.write_text(text, encoding="utf-8")
