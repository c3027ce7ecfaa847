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
    bool,
    typer.Option(
        "--skip-bad",
        help="Leave unusable records out, named in a warning, instead of refusing the file.",
    ),
]
OverridesArgument = Annotated[list[str] | None, typer.Argument(help="a.b=c on the config.")]
RunFileArgument = Annotated[Path, typer.Argument(metavar="CONFIG", help="A YAML run file.")]
