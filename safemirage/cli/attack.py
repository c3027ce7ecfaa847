"""`safemirage attack`: a suite with one-word attacks on its questions, and their control."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from safemirage.cli.options import OverridesArgument
from safemirage.cli.output import tables
from safemirage.cli.progress import progress_bars
from safemirage.text.numbers import percent
from safemirage.text.wide_table import WideTable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from safemirage.evaluation.attacks.first_words import Account

_SHOWN = 3
_ACCOUNT_FILE = "attacks.json"


def attack(
    config: Annotated[Path, typer.Argument(help="A file like configs/attack/vlguard.yaml.")],
    out: Annotated[Path, typer.Option("--out", help="Folder of the new suite.")],
    overrides: OverridesArgument = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace a suite that would change.")
    ] = False,
) -> None:
    """Write a suite with every plain question, its rewrites by first word, and as many neutral paraphrases.

    Rewrites that a model was asked for are kept: a second run asks nothing.
    """
    import asyncio

    from safemirage.config.attack import AttackConfig
    from safemirage.config.loading.load import to_tree
    from safemirage.evaluation.attacks.first_words import accounts_tree, attack_suite
    from safemirage.evaluation.generators.asking import ModelCalls
    from safemirage.evaluation.run.preflight import require
    from safemirage.evaluation.suites.writer import write_suite
    from safemirage.settings import load_located, read_settings
    from safemirage.store import open_store

    settings = read_settings()
    loaded = load_located(AttackConfig, config, overrides or (), settings)
    require(loaded)
    calls = ModelCalls()
    with open_store(settings.store_url) as store, progress_bars() as on_progress:
        attacked = asyncio.run(
            attack_suite(
                loaded,
                store=store,
                calls=calls,
                on_progress=lambda done, total: on_progress(loaded.name, done, total),
            )
        )
    about = {"config": to_tree(loaded), "attacks": accounts_tree(attacked.accounts)}
    states = write_suite(
        out, loaded.name, attacked.samples, about={_ACCOUNT_FILE: about}, force=force
    )
    console = tables()
    print_accounts(console, attacked.accounts)
    console.print(f"model calls: {calls.answers} for rewrites, {calls.verdicts} for checks")
    for name, state in states.items():
        console.print(f"{out / name}: {state}", soft_wrap=True)


def print_accounts(console: Console, accounts: "Sequence[Account]") -> None:
    """How many questions of each condition got K rewrites, their share, in which way, and which did not."""
    lines = []
    for one in accounts:
        forms = ", ".join(f"{count} {form}" for form, count in one.forms.items())
        share = percent(one.rewritten / one.questions)
        counts = (str(one.attempts), str(one.questions), f"{one.rewritten} ({share})")
        lines.append([one.condition, one.attack, *counts, forms])
    header = ["condition", "attack", "K", "questions", "with K rewrites", "rewrites by form"]
    console.print(WideTable(header, lines, keys=2))
    for one in accounts:
        reasons: dict[str, list[str]] = {}
        for item in one.missing:
            reasons.setdefault(f"{item.found} rewrites; {item.reason}", []).append(item.sample_id)
        for reason, names in reasons.items():
            shown = ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
            console.print(
                f"left out of {one.attack}: {len(names)} of {one.questions} ({shown}), each with {reason}",
                markup=False,
                soft_wrap=True,
            )
    if any(one.missing for one in accounts):
        console.print(f"all of them are in {_ACCOUNT_FILE}")
