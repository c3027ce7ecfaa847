"""`safemirage convert`: a checkpoint of the original LLaVA for transformers, vLLM and everything here."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from safemirage.config.loading.load import ConfigError


def convert(
    source: Annotated[
        Path, typer.Argument(help="A checkpoint in the original LLaVA's layout, full or LoRA.")
    ],
    to: Annotated[Path, typer.Option("--to", help="The export to write, in the hub's layout.")],
    base: Annotated[
        str | None,
        typer.Option("--base", help="Of a LoRA checkpoint: what it was trained on, hub layout."),
    ] = None,
    vision_tower: Annotated[
        Path | None,
        typer.Option("--vision-tower", help="The CLIP folder, where SOURCE has only its name."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace what is there.")] = False,
) -> None:
    """Turn a checkpoint of the original LLaVA into an export, and check it back key by key and text by text."""
    if to.exists() and not force:
        raise ConfigError(f"--to: {to} is there; name another folder or give --force")
    from safemirage.models.conversion import convert as run_convert

    report = run_convert(source, to, base=base, vision_tower=vision_tower)
    console = Console(soft_wrap=True, highlight=False)
    console.print(f"{to}: {report.compared} tensors, each read back with the values of {source}")
    if report.texts:
        console.print(f"tokenizer: the original's ids for {report.texts} texts")
    console.print(f"vision tower: {report.vision_tower}")
    for key, count in report.filled_rows.items():
        console.print(f"{key}: {count} rows for new tokens, each the mean of the others")
    if report.computed:
        console.print(f"left out, because a model computes them: {', '.join(report.computed)}")
