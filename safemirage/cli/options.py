"""Options that several commands have."""

from pathlib import Path
from typing import Annotated

import typer

ImageFolderOption = Annotated[
    Path | None,
    typer.Option(
        "--image-folder", help="Root of the image paths; given, every image must lie in it."
    ),
]
SkipBadOption = Annotated[
    int,
    typer.Option(
        "--skip-bad",
        metavar="N",
        min=0,
        help="Leave up to N unusable records of each file out, each named in a warning, instead of refusing it.",
    ),
]
OverridesArgument = Annotated[list[str] | None, typer.Argument(help="a.b=c on the config.")]
RunFileArgument = Annotated[Path, typer.Argument(metavar="CONFIG", help="A YAML run file.")]
