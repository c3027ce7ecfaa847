"""`safemirage prepare` and `safemirage prepare answers`: forget and retain files, and the answers they are made of."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from safemirage.cli.options import ImageFolderOption, OverridesArgument, SkipBadOption
from safemirage.cli.output import tables
from safemirage.cli.progress import progress_bars
from safemirage.text.wide_table import WideTable

app = typer.Typer(
    help="Turn VLGuard's training file and a table of harmful answers into forget and retain files.",
    invoke_without_command=True,
)


@app.callback()
def prepare(  # noqa: PLR0913 - options of a command
    context: typer.Context,
    train: Annotated[Path | None, typer.Option("--train", help="VLGuard's train.json.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder of the files.")] = None,
    answers: Annotated[
        Path | None, typer.Option("--answers", help="JSON {sample id or image: harmful answer}.")
    ] = None,
    mix: Annotated[
        Path | None, typer.Option("--mix", help="LLaVA JSON to mix into the retain set.")
    ] = None,
    image_folder: ImageFolderOption = None,
    skip_bad: SkipBadOption = 0,
    total: Annotated[
        int, typer.Option("--total", min=1, help="Records of the mixed retain set.")
    ] = 2000,
    seed: Annotated[
        int, typer.Option("--seed", help="Decides what is drawn, and all orders.")
    ] = 42,
    selection: Annotated[
        int,
        typer.Option(
            "--selection",
            min=0,
            help="Safe and as many unsafe images to set aside for searches; needs --image-folder.",
        ),
    ] = 0,
    test: Annotated[
        Path | None,
        typer.Option("--test", help="VLGuard's test.json, which those images share nothing with."),
    ] = None,
    test_images: Annotated[
        Path | None, typer.Option("--test-images", help="Its images; default: --image-folder.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace files that would change.")
    ] = False,
) -> None:
    """Turn VLGuard's training file and a table of harmful answers into forget and retain files."""
    if context.invoked_subcommand is not None:
        return
    if train is None or out is None:
        raise typer.BadParameter("needed", param_hint="--train" if train is None else "--out")
    from safemirage.prepare.pipeline import PrepareInputs, prepare_files

    inputs = PrepareInputs(
        train=train,
        answers=answers,
        mix=mix,
        image_folder=image_folder,
        selection=selection,
        test=test,
        test_images=test_images,
        skip_bad=skip_bad,
    )
    prepared = prepare_files(inputs, out, total=total, seed=seed, force=force)
    console = tables()
    console.print(f"{out}, seed {seed}", markup=False, soft_wrap=True)
    lines = [[name, str(count), prepared.states[name]] for name, count in prepared.records.items()]
    console.print(WideTable(["file", "records", ""], lines))
    for sentence in prepared.notes:
        console.print(sentence)


@app.command("answers")
def prepare_answers(
    config: Annotated[Path, typer.Argument(help="A file like configs/prepare/answers.yaml.")],
    out: Annotated[
        Path, typer.Option("--out", help="The table, for `safemirage prepare --answers`.")
    ],
    overrides: OverridesArgument = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace a table that would change.")
    ] = False,
) -> None:
    """Make the table of harmful answers: several models answer, another picks the most harmful.

    A run that was cut off, run again, asks only what is missing.
    """
    import asyncio

    from safemirage.config.prepare import AnswersConfig
    from safemirage.evaluation.run.preflight import require
    from safemirage.files import write_files
    from safemirage.prepare.harmful_answers import make_answers
    from safemirage.settings import load_located, read_settings
    from safemirage.store import open_store

    settings = read_settings()
    loaded = load_located(AnswersConfig, config, overrides or (), settings)
    require(loaded)
    with open_store(settings.store_url) as store, progress_bars() as on_progress:
        table = asyncio.run(make_answers(loaded, store=store, on_progress=on_progress))
    report = out.with_suffix(".report.json").name
    write_files(out.parent, {out.name: table.answers(), report: table.report()}, force=force)
    console = Console()
    for name, counts in table.counts.items():
        console.print(
            f"{name}: "
            + ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items()))
        )
    num_answers = sum(answer is not None for answer in table.answers().values())
    console.print(
        f"{out}: {num_answers} answers to {len(table.choices)} questions; who gave them: {report}"
    )
