"""The command line: one module a command, put into `app` below. Starts without torch.

A command is a function with its options as annotated arguments. It imports its topic's modules when it is called, does
what they do, and prints; a problem of the user's making is raised, and `main` prints it. What runs on Ray is in `jobs`.
"""

import sys
import warnings
from collections.abc import Sequence
from typing import Annotated

import typer
from rich.console import Console

from safemirage.cli import (
    attack,
    attack_search,
    audit,
    compare,
    convert,
    evaluate,
    exchange,
    gate,
    image_controls,
    jobs,
    judges,
    listing,
    prepare,
    probes,
    report,
    rescore,
    token,
    utility,
)
from safemirage.config.loading.load import ConfigError
from safemirage.data.records import DataError, DataWarning
from safemirage.evaluation.errors import EvaluationError, NoSuchEvaluation
from safemirage.evaluation.generators import GenerationError
from safemirage.evaluation.suites.folder import SuiteError
from safemirage.extras import install_hint
from safemirage.models.families import UnknownFamilyError
from safemirage.models.manifest import ExportError
from safemirage.training.job import (
    CheckpointError,
    SampleError,
    StorageError,
    TrainingCollapsed,
    TrainingDiverged,
)
from safemirage.versions import describe_versions

_DATA = "Data and models"
_TRAINING = "Training"
_MEASURING = "Measuring"
_RESULTS = "Results"
_WHOLE = "Whole chains and the service"
"""The groups of commands in `safemirage --help`."""
app = typer.Typer(
    name="safemirage",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.command("audit", rich_help_panel=_DATA)(audit.audit)
app.add_typer(prepare.app, name="prepare", rich_help_panel=_DATA)
app.command("convert", rich_help_panel=_DATA)(convert.convert)
app.command("train", rich_help_panel=_TRAINING)(jobs.train)
app.command("search", rich_help_panel=_TRAINING)(jobs.search)
app.command("evaluate", rich_help_panel=_MEASURING)(evaluate.evaluate)
app.command("attack", rich_help_panel=_MEASURING)(attack.attack)
app.command("attack-search", rich_help_panel=_MEASURING)(attack_search.attack_search)
app.command("image-controls", rich_help_panel=_MEASURING)(image_controls.image_controls)
app.add_typer(probes.app, name="probe", rich_help_panel=_MEASURING)
app.command("rescore", rich_help_panel=_MEASURING)(rescore.rescore)
app.command("utility", rich_help_panel=_MEASURING)(utility.utility)
app.command("judge-check", rich_help_panel=_MEASURING)(judges.judge_check)
app.command("audit-judge", rich_help_panel=_MEASURING)(judges.audit_judge)
app.command("list", rich_help_panel=_RESULTS)(listing.list_stored)
app.command("report", rich_help_panel=_RESULTS)(report.report)
app.command("compare", rich_help_panel=_RESULTS)(compare.compare)
app.command("gate", rich_help_panel=_RESULTS)(gate.gate)
app.command("utility-table", rich_help_panel=_RESULTS)(utility.utility_table)
app.command("export", rich_help_panel=_RESULTS)(exchange.export_evaluation)
app.command("import", rich_help_panel=_RESULTS)(exchange.import_evaluation)
app.command("demo", rich_help_panel=_WHOLE)(jobs.demo)
app.command("reproduce", rich_help_panel=_WHOLE)(jobs.reproduce)
app.command("serve", rich_help_panel=_WHOLE)(jobs.serve)
app.add_typer(token.app, name="token", rich_help_panel=_WHOLE)
app.command("submit", rich_help_panel=_WHOLE)(jobs.submit)
app.command("job-env", rich_help_panel=_WHOLE)(jobs.job_env)

_BAD_INPUT = (
    ConfigError,
    DataError,
    ExportError,
    NoSuchEvaluation,
    SuiteError,
    UnknownFamilyError,
    OSError,
)
"""A command that cannot start as it was asked for: exit code 2, which is also that of a usage error."""
_FAILURES = (
    EvaluationError,
    GenerationError,
    SampleError,
    StorageError,
    CheckpointError,
    TrainingCollapsed,
    TrainingDiverged,
)
"""What went wrong on the way: exit code 1."""


def _print_version(asked: bool) -> None:
    if asked:
        Console(soft_wrap=True, highlight=False).print(describe_versions(), markup=False)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_print_version,
            is_eager=True,
            help="Print the versions of safemirage and of what it runs on.",
        ),
    ] = False,
) -> None:
    """Find, measure and remove safety mirages in vision-language models.

    Exit codes: 0 done; 1 failed, or the answer is no (a gate, a judge that is fooled); 2 cannot start as it was asked for.
    """


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs a command. A problem of the user's making is printed in full, without a traceback."""
    errors = Console(stderr=True, highlight=False, soft_wrap=True)
    with warnings.catch_warnings():
        warnings.simplefilter("always", DataWarning)
        warnings.showwarning = lambda message, *_: errors.print(f"warning: {message}", markup=False)
        try:
            app(args=arguments, prog_name="safemirage")
        except ModuleNotFoundError as error:
            said = install_hint(error.name) if error.name else str(error)
            errors.print(f"error: {said}", markup=False)
            sys.exit(2)
        except (*_BAD_INPUT, *_FAILURES) as error:
            errors.print(f"error: {error}", markup=False)
            sys.exit(2 if isinstance(error, _BAD_INPUT) else 1)
