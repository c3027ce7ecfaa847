"""`safemirage audit`: which words give a file's safety labels away."""

from collections.abc import Sequence
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
    skip_bad: SkipBadOption = False,
    top: Annotated[int, typer.Option("--top", min=1, help="Words shown of each kind.")] = 10,
) -> None:
    """Says which words of FILE's questions give their safety label away. Needs no model."""
    from safemirage.data.audit.audit import audit as run_audit
    from safemirage.data.audit.examples import read_examples
    from safemirage.data.audit.report import PLOT_FORMATS, to_tables, write_plot

    if plot is not None and plot.suffix not in PLOT_FORMATS:
        raise typer.BadParameter(
            f"{plot.name!r} must end in one of {', '.join(PLOT_FORMATS)}", param_hint="--plot"
        )
    names = _names([file, *(against or [])])
    examples = {
        name: read_examples(path, image_folder, skip_bad=skip_bad) for name, path in names.items()
    }
    first, *others = names
    result = run_audit(first, examples[first], {name: examples[name] for name in others})
    tables(json_path).print(to_tables(result, top=top))
    write_json(json_path, asdict(result))
    if plot is not None:
        write_plot(result, plot)


def _names(paths: Sequence[Path]) -> dict[str, Path]:
    """The files by what they are called on screen: their name, or the path where two have one name."""
    names = [path.name for path in paths]
    return {(str(path) if names.count(path.name) > 1 else path.name): path for path in paths}
