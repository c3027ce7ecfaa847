"""`safemirage train | search | reproduce | serve | demo | submit`: what runs on Ray; `job-env`, what a submitted job needs.

Their code lies in `ray_jobs` and `serve_app`, which import this package. It is therefore loaded by name, and only when a
command is called: `JOBS` is the one place that knows these names.
"""

import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from safemirage.cli.options import OverridesArgument, RunFileArgument
from safemirage.cli.progress import resumable

JOBS = {
    "train": "ray_jobs.train:run_command",
    "search": "ray_jobs.search:run_command",
    "evaluate": "ray_jobs.evaluate:run",
    "reproduce": "ray_jobs.reproduce:run_command",
    "demo": "ray_jobs.demo:run_command",
    "serve": "serve_app.app:run_command",
    "submit": "ray_jobs.submit:run_command",
}
"""Command -> module and function."""


def job(name: str) -> Callable[..., Any]:
    """The function that does a command's work."""
    module, _, function = JOBS[name].partition(":")
    found: Callable[..., Any] = getattr(import_module(module), function)
    return found


def _run(name: str, *arguments: Any, **options: Any) -> None:
    with resumable():
        raise typer.Exit(job(name)(*arguments, **options))


def train(
    config: RunFileArgument,
    overrides: OverridesArgument = None,
    estimate: Annotated[
        bool,
        typer.Option("--estimate", help="Print the memory that a worker needs; start nothing."),
    ] = False,
) -> None:
    """Train or unlearn as a file of configs/train says, on the cluster of RAY_ADDRESS or one of its own.

    A finished run is returned, a live one is followed, a failed or interrupted one resumes from its last checkpoint.
    Exits with 0 when the run has finished, 1 when it failed, 2 when it cannot start as it is.
    """
    _run("train", config, overrides or (), estimate=estimate)


def search(
    config: RunFileArgument,
    overrides: OverridesArgument = None,
    plan: Annotated[
        bool,
        typer.Option(
            "--plan", help="Print trials, GPU-hours, disk and what is missing; start nothing."
        ),
    ] = False,
) -> None:
    """Search the settings of a training for several objectives at once, as a file of configs/search says.

    A search that was cut off resumes with the same study. Exits with 0 when it has finished, 1 when it failed, 2 when it
    cannot start as it is.
    """
    _run("search", config, overrides or (), plan=plan)


def reproduce(config: RunFileArgument, overrides: OverridesArgument = None) -> None:
    """Run a whole chain as a file of configs/reproduce says: train, search, serve, evaluate over HTTP, report."""
    _run("reproduce", config, overrides or ())


def serve(config: RunFileArgument, overrides: OverridesArgument = None) -> None:
    """Serve checkpoints, judges and evaluations over HTTP until Ctrl-C, as a file of configs/serve says.

    Bearer tokens come from SAFEMIRAGE_API_TOKENS_FILE or SAFEMIRAGE_API_TOKEN.
    """
    _run("serve", config, overrides or ())


def demo(
    overrides: OverridesArgument = None,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the world and its runs.")] = 0,
    keep: Annotated[
        bool, typer.Option("--keep", help="Hold service and dashboards open until Ctrl-C.")
    ] = False,
) -> None:
    """Show a safety mirage and its repair in a small world, on a Ray cluster of its own. Needs no data and no GPU."""
    _run("demo", overrides or (), seed=seed, keep=keep)


def job_env() -> None:
    """Print the runtime environment that makes a job work with this shell's settings; of secrets, nothing.

    ray job submit --working-dir . --runtime-env-json "$(safemirage job-env)" -- ...
    """
    import json

    from safemirage.settings import read_settings

    json.dump({"env_vars": read_settings().job_variables()}, sys.stdout)
    sys.stdout.write("\n")


def submit(  # noqa: PLR0913 - options of a command
    command: Annotated[
        Literal["train", "search", "evaluate", "reproduce"],
        typer.Argument(metavar="COMMAND", help="train, search, evaluate or reproduce."),
    ],
    config: RunFileArgument,
    overrides: OverridesArgument = None,
    address: Annotated[
        str | None,
        typer.Option(
            help="Of the cluster's dashboard, http://HOST:8265. Default: RAY_API_SERVER_ADDRESS, RAY_ADDRESS, a head on "
            "this machine."
        ),
    ] = None,
    upload: Annotated[
        bool,
        typer.Option(
            help="Upload the code and run files of the current folder, as .rayignore says; --no-upload is for clusters "
            "where safemirage is installed."
        ),
    ] = True,
    python: Annotated[
        str, typer.Option(help="The interpreter on the head; default: this one's path.")
    ] = sys.executable,
    wait: Annotated[bool, typer.Option(help="Follow the job's log until it ends.")] = True,
) -> None:
    """Submit a run to a cluster, with the settings of this shell, and follow its log.

    Ctrl-C leaves the job running. Exits with 0 when the job has succeeded, 1 when it failed, 2 when it was not taken.
    """
    options = {
        "address": address,
        "working_dir": Path.cwd() if upload else None,
        "python": python,
        "wait": wait,
    }
    module = JOBS[command].partition(":")[0]
    raise typer.Exit(job("submit")(module, [str(config), *(overrides or ())], **options))
