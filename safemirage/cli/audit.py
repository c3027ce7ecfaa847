"""`safemirage audit`: which words, and which features of pictures, give a file's safety labels away."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from safemirage.cli.options import ImageFolderOption, SkipBadOption
from safemirage.cli.output import JsonOption, tables, write_json


def audit(  # noqa: PLR0913 - options of a command
    file: Annotated[Path, typer.Argument(help="VLGuard or LLaVA JSON.")],
    against: Annotated[
        list[Path] | None,
        typer.Option("--against", help="Score FILE's lookup on this file too; repeatable."),
    ] = None,
    json_path: JsonOption = None,
    plot: Annotated[Path | None, typer.Option("--plot", help="Draw a .png, .svg or .pdf.")] = None,
    image_folder: ImageFolderOption = None,
    skip_bad: SkipBadOption = 0,
    top: Annotated[int, typer.Option("--top", min=1, help="Words shown of each kind.")] = 10,
) -> None:
    """Say which words of FILE's questions give their safety label away, and with --image-folder which features of pictures.

    Needs no model.
    """
    from safemirage.data.audit.audit import audit_files
    from safemirage.data.audit.report import PLOT_FORMATS, to_tables, write_plot

    if plot is not None and plot.suffix not in PLOT_FORMATS:
        raise typer.BadParameter(
            f"{plot.name!r} must end in one of {', '.join(PLOT_FORMATS)}", param_hint="--plot"
        )
    result = audit_files(file, against or (), image_folder=image_folder, skip_bad=skip_bad)
    tables(json_path).print(to_tables(result, top=top))
    write_json(json_path, asdict(result))
    if plot is not None:
        write_plot(result, plot)
