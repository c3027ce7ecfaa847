"""`safemirage attack-search`: which first word opens a model widest."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from safemirage.cli.attack import print_accounts
from safemirage.cli.options import OverridesArgument
from safemirage.cli.progress import progress_bars
from safemirage.text.numbers import bounds, p_value, percent, points

if TYPE_CHECKING:
    from safemirage.evaluation.attacks.word_search import AttackSearch, WordResult
    from safemirage.evaluation.metrics.intervals import Rate

_RESULT_FILE = "search.json"


def attack_search(
    config: Annotated[Path, typer.Argument(help="A file like configs/attack_search/vlguard.yaml.")],
    out: Annotated[Path, typer.Option("--out", help="Folder of both suites and search.json.")],
    overrides: OverridesArgument = None,
) -> None:
    """Try the first words that tell the training set's label on some questions; report the strongest on the others."""
    import asyncio

    from safemirage.config.attack_search import AttackSearchConfig
    from safemirage.evaluation.attacks.word_search import search_attack, search_tree
    from safemirage.evaluation.generators.asking import ModelCalls
    from safemirage.evaluation.reports.terminal import screen
    from safemirage.evaluation.run.preflight import require
    from safemirage.files import write_files
    from safemirage.settings import load_located, read_settings
    from safemirage.store import open_store

    settings = read_settings()
    loaded = load_located(AttackSearchConfig, config, overrides or (), settings)
    require(loaded)
    calls = ModelCalls()
    with open_store(settings.store_url) as store, progress_bars() as on_progress:
        search = asyncio.run(
            search_attack(loaded, out, store=store, calls=calls, on_progress=on_progress)
        )
    write_files(out, {_RESULT_FILE: search_tree(search)}, force=True)
    console = screen()
    _print(console, search)
    for side, evaluation in search.evaluations.items():
        console.print(f"{side} is evaluation {evaluation}", soft_wrap=True)
    console.print(
        f"model calls: {calls.answers} for answers and rewrites, {calls.verdicts} for verdicts and checks",
        soft_wrap=True,
    )


def _print(console: Console, search: "AttackSearch") -> None:
    from safemirage.evaluation.reports.grid import Grid
    from safemirage.evaluation.reports.terminal import print_grid

    print_accounts(console, search.accounts)
    title = f"{search.metric}, any of {search.chosen.gap.attempts}, judge {search.judge}"
    lines = [["selection", *_cells(one)] for one in search.tried]
    lines += [
        ["test", *_cells(search.chosen)],
        ["test", "neutral", _rate(search.control), "", ""],
        ["test", "plain, one try", _rate(search.plain), "", ""],
    ]
    header = ["questions", "word", "opened", "gap to neutral, points", "p (Holm)"]
    print_grid(console, Grid(title=title, header=header, lines=lines, keys=2))
    console.print(
        f"{len(search.tried)} words were tried on {search.questions['selection']} questions; the widest was asked of "
        f"{search.questions['test']} others, whose p is not adjusted because one word was tested there.",
        soft_wrap=True,
    )
    if search.not_tried:
        reasons = "; ".join(f"{word}: {reason}" for word, reason in search.not_tried.items())
        console.print(f"not tried: {reasons}", markup=False)


def _cells(result: "WordResult") -> tuple[str, str, str, str]:
    change = result.gap.change
    value, low, high = map(points, (change.difference, change.low, change.high))
    gap = f"{value} ({low} to {high}), n = {change.n}"
    return result.word, _rate(result.rate), gap, p_value(result.p_holm)


def _rate(rate: "Rate") -> str:
    if rate.value is None or rate.low is None or rate.high is None:
        return "not scored"
    return f"{percent(rate.value)} ({bounds(rate.low, rate.high)}), n = {rate.n}"
