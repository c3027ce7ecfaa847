"""The command line: one module a command, put into `app` below. Starts without torch.

A command is a function with its options as annotated arguments. It imports its topic's modules when it is called, does
what they do, and prints; a problem of the user's making is raised, and `main` prints it.
"""

import sys
import warnings
from collections.abc import Sequence

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
    job_env,
    judges,
    prepare,
    probes,
    report,
    rescore,
    submission,
    utility,
)
from safemirage.config.load import ConfigError
from safemirage.data.records import DataError, DataWarning
from safemirage.evaluation.errors import EvaluationError
from safemirage.evaluation.generators import GenerationError
from safemirage.evaluation.suites import SuiteError
from safemirage.models.families import UnknownFamilyError
from safemirage.models.manifest import ExportError
from safemirage.training.job import (
    CheckpointError,
    SampleError,
    StorageError,
    TrainingCollapsed,
    TrainingDiverged,
)

app = typer.Typer(
    name="safemirage",
    help="Find, measure and remove safety mirages in vision-language models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("audit")(audit.audit)
app.command("attack")(attack.attack)
app.command("attack-search")(attack_search.attack_search)
app.command("convert")(convert.convert)
app.command("judge-check")(judges.judge_check)
app.command("audit-judge")(judges.audit_judge)
app.add_typer(prepare.app, name="prepare")
app.command("evaluate")(evaluate.evaluate)
app.command("job-env")(job_env.job_env)
app.command("rescore")(rescore.rescore)
app.command("report")(report.report)
app.command("compare")(compare.compare)
app.add_typer(probes.app, name="probe")
app.command("utility")(utility.utility)
app.command("submission")(submission.submission)
app.command("export")(exchange.export_evaluation)
app.command("import")(exchange.import_evaluation)

_USER_ERRORS = (
    ConfigError,
    DataError,
    EvaluationError,
    ExportError,
    GenerationError,
    SuiteError,
    UnknownFamilyError,
    SampleError,
    StorageError,
    CheckpointError,
    TrainingCollapsed,
    TrainingDiverged,
    OSError,
    ModuleNotFoundError,
)


@app.callback()
def _root() -> None:
    """Keeps `safemirage` a group of commands."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs a command. A problem of the user's making is printed in full, without a traceback, and exits 1."""
    errors = Console(stderr=True, highlight=False, soft_wrap=True)
    with warnings.catch_warnings():
        warnings.simplefilter("always", DataWarning)
        warnings.showwarning = lambda message, *_: errors.print(f"warning: {message}", markup=False)
        try:
            app(args=arguments)
        except _USER_ERRORS as error:
            errors.print(f"error: {error}", markup=False)
            sys.exit(1)
