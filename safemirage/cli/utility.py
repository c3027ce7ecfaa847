"""`safemirage utility` and `utility-table`: what a model can still do, measured by lmms-eval, beside what it refuses."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from safemirage.evaluation.metrics.rates import StoredEvaluation
    from safemirage.evaluation.utility.files import ResultFile
    from safemirage.settings import Settings
    from safemirage.store.database import Store


def utility(
    model: Annotated[str, typer.Argument(help="An export's folder, a model folder or a hub id.")],
    tasks: Annotated[
        str, typer.Option("--tasks", help="Tasks of lmms-eval, with commas: vqav2_val,textvqa_val.")
    ],
    options: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[-- LMMS_EVAL_OPTIONS]",
            help="After --: options that lmms-eval gets as they are, such as --limit 100 or --device cpu.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Folder of the results. Default: utility in the storage."),
    ] = None,
    python: Annotated[
        str, typer.Option("--python", help="Python of the environment that has lmms-eval.")
    ] = sys.executable,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print lmms-eval's command line and stop.")
    ] = False,
) -> None:
    """Measure a model with lmms-eval, and write beside the results which weights they are of."""
    import shlex

    from rich.console import Console

    from safemirage.evaluation.utility.lmms_eval import (
        lmms_eval_command,
        require_lmms_eval,
        run_lmms_eval,
        weights_of_folder,
        write_record,
    )
    from safemirage.models.manifest import is_adapter
    from safemirage.settings import read_settings

    folder = _model_folder(model)
    target = out.absolute() if out is not None else read_settings().storage.root / "utility"
    command = lmms_eval_command(folder, tasks, target, python=python, options=options or ())
    console = Console(soft_wrap=True, highlight=False)
    if dry_run:
        console.print(shlex.join(command), markup=False)
        return
    require_lmms_eval(command)
    if is_adapter(folder):
        from safemirage.models.export import merge_export

        merge_export(folder)
    weights = weights_of_folder(folder)
    results = run_lmms_eval(command, target, _pass_on)
    write_record(results, model=model, weights=weights, command=command)
    console.print(str(results), markup=False)


def utility_table(
    files: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME=]FILE...",
            help="Result files of lmms-eval or VLMEvalKit. NAME is an evaluation of the model that was measured, where no "
            "record beside the file says which it was.",
        ),
    ] = None,
    evaluations: Annotated[
        list[str] | None,
        typer.Option(
            "--evaluation",
            help="Show this evaluation's rates; by id, name or config file; repeatable. Default: all of the same weights.",
        ),
    ] = None,
    totals: Annotated[
        list[str] | None,
        typer.Option(
            "--total", help="A column or row that is a total in VLMEvalKit's files; repeatable."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for utility.md, .tex and .json.")
    ] = None,
) -> None:
    """Print safety and utility side by side, a line a model, joined by the digest of its weights."""
    from safemirage.evaluation.reports.terminal import print_grid, screen
    from safemirage.evaluation.reports.utility import (
        model_lines,
        utility_grid,
        write_utility,
    )
    from safemirage.settings import read_settings
    from safemirage.store import open_store

    if not files and not evaluations:
        raise typer.BadParameter("give a result file, or an --evaluation")
    settings = read_settings()
    with open_store(settings.store_url) as store:
        read = [_result_file(item, totals or (), store, settings) for item in files or ()]
        lines = model_lines(_chosen(store, settings, evaluations or [], read), read)
    grid = utility_grid(lines)
    console = screen()
    print_grid(console, grid)
    if out is not None:
        for path in write_utility(lines, grid, out):
            console.print(str(path), soft_wrap=True)


def _model_folder(model: str) -> Path:
    local = Path(model).expanduser()
    if local.is_dir():
        return local.absolute()
    from safemirage.models.loading import resolve_model  # imports torch, for a hub id alone

    return resolve_model(model)


def _pass_on(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _result_file(
    item: str, totals: "Sequence[str]", store: "Store", settings: "Settings"
) -> "ResultFile":
    """The file of `[NAME=]FILE`."""
    from dataclasses import replace

    from safemirage.evaluation.errors import EvaluationError
    from safemirage.evaluation.reports.utility import model_key
    from safemirage.evaluation.run.archive import find_evaluation
    from safemirage.evaluation.utility.files import read_result_file

    name, separator, path = item.partition("=")
    if not separator or Path(item).expanduser().is_file():
        return read_result_file(Path(item).expanduser(), totals)
    file = read_result_file(Path(path).expanduser(), totals)
    found = find_evaluation(store, name, settings)
    record = found.record
    key = model_key(record, found.id)
    if file.weights and key not in file.weights:
        raise EvaluationError(
            f"{path}: the record beside it names other weights than evaluation {found.id} asked; leave {name}= out"
        )
    return replace(file, model=record.name, weights=file.weights or (key,))


def _chosen(
    store: "Store", settings: "Settings", names: list[str], files: "Sequence[ResultFile]"
) -> "list[StoredEvaluation]":
    """The named evaluations; with none named, all finished ones of the files' models but those judged again."""
    from safemirage.evaluation.reports.utility import model_key
    from safemirage.evaluation.run.archive import load_evaluations

    measured = {digest for file in files for digest in file.weights}
    if not names:
        finished = [(one.id, one.readable) for one in store.evaluations.list(states=("finished",))]
        names = [
            name
            for name, record in finished
            if record and record.rescored is None and model_key(record, name) in measured
        ]
    return load_evaluations(store, names, settings)
