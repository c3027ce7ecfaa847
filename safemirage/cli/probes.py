"""`safemirage probe relearn | adapter | quantise`: how deep does the unlearning of an export go?"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from safemirage.cli.options import OverridesArgument
from safemirage.cli.progress import progress_bars
from safemirage.progress import OnNamedProgress

if TYPE_CHECKING:
    from safemirage.probes.measuring import Measured, Point
    from safemirage.probes.report import Curves
    from safemirage.settings import Settings
    from safemirage.storage import Storage
    from safemirage.store import Store

app = typer.Typer(help="Change an export, and measure it before and after.", no_args_is_help=True)

C = TypeVar("C")
ConfigArgument = Annotated[Path, typer.Argument(help="A file of configs/probe/.")]
OutOption = Annotated[
    Path | None,
    typer.Option("--out", help="Folder for report.html and the like, compare.*, probe.json."),
]


@dataclass(frozen=True)
class _Place:
    """The store, settings and folder that a probe works with."""

    storage: "Storage"
    store: "Store"
    on_progress: OnNamedProgress


@app.command("relearn")
def relearn(
    config: ConfigArgument, overrides: OverridesArgument = None, out: OutOption = None
) -> None:
    """Fine-tune on k forgotten records and follow attack success over the steps.

    A second run trains and asks nothing, and one that was cut off resumes.
    """
    from safemirage.config.probe import RelearnConfig
    from safemirage.probes.relearn import relearn_points
    from safemirage.probes.report import relearn_curves

    loaded, settings = _loaded(RelearnConfig, config, overrides)

    def points(place: _Place) -> "Sequence[Point]":
        return relearn_points(
            loaded, storage=place.storage, store=place.store, on_progress=place.on_progress
        )

    _probe("relearn", points, out, settings, relearn_curves)


@app.command("adapter")
def adapter(
    config: ConfigArgument, overrides: OverridesArgument = None, out: OutOption = None
) -> None:
    """Measure the export of a LoRA run with its adapter on, weaker, and off."""
    from safemirage.config.probe import AdapterProbeConfig
    from safemirage.probes.weights import adapter_points

    loaded, settings = _loaded(AdapterProbeConfig, config, overrides)
    _probe("adapter", lambda _: adapter_points(loaded), out, settings)


@app.command("quantise")
def quantise(
    config: ConfigArgument, overrides: OverridesArgument = None, out: OutOption = None
) -> None:
    """Measure the export beside the same weights in fewer bits."""
    from safemirage.config.probe import QuantiseConfig
    from safemirage.probes.weights import quantise_points

    loaded, settings = _loaded(QuantiseConfig, config, overrides)
    _probe("quantise", lambda _: quantise_points(loaded), out, settings)


def _loaded(kind: type[C], config: Path, overrides: list[str] | None) -> "tuple[C, Settings]":
    """The config, of which all that it names is there, and the settings that it was read with."""
    from safemirage.evaluation.run.preflight import require
    from safemirage.settings import load_located, read_settings

    settings = read_settings()
    loaded = load_located(kind, config, overrides or (), settings)
    require(loaded)
    return loaded, settings


def _probe(
    name: str,
    points: "Callable[[_Place], Sequence[Point]]",
    out: Path | None,
    settings: "Settings",
    curves: "Callable[[Measured], Curves] | None" = None,
) -> None:
    """Makes the points, measures them, and prints: all rates, what is peculiar to the probe, the paired changes."""
    import asyncio
    from importlib.metadata import version

    from safemirage.evaluation.reports.comparison import comparison_grid
    from safemirage.evaluation.reports.rates import rates_grid
    from safemirage.evaluation.reports.terminal import print_grid, screen
    from safemirage.probes.measuring import measure
    from safemirage.probes.report import write_probe

    with _place(settings) as place:
        made = points(place)
        measured = asyncio.run(
            measure(name, made, store=place.store, on_progress=place.on_progress)
        )
        shown = curves(measured) if curves is not None else None
        console = screen()
        print_grid(console, rates_grid(measured.rows))
        changes = comparison_grid(measured.comparison)
        for grid in [changes] if shown is None else [shown.grid, changes]:
            print_grid(console, grid)
        console.print(
            f"model calls: {measured.calls.answers} for answers, {measured.calls.verdicts} for verdicts "
            "(what the store knows is not asked again)",
            soft_wrap=True,
        )
        if out is not None:
            paths = write_probe(
                place.store, measured, out, version=version("safemirage"), curves=shown
            )
            for path in paths:
                console.print(str(path), soft_wrap=True)


@contextmanager
def _place(settings: "Settings") -> Iterator[_Place]:
    from safemirage.store import open_store

    with open_store(settings.store_url) as store, progress_bars() as on_progress:
        yield _Place(settings.storage, store, on_progress)
