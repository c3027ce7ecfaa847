"""`safemirage gate`: an exit code from rates, for scripts and CI."""

from typing import Annotated

import typer

from safemirage.cli.output import JsonOption, tables, write_json


def gate(
    evaluation: Annotated[str, typer.Argument(help="By id, name or config file.")],
    bars: Annotated[
        list[str],
        typer.Argument(
            help="asr<=0.05, useful_rate>=0.9, unsafe_what/asr<=0.05 (one condition) ..."
        ),
    ],
    max_unscored: Annotated[
        float, typer.Option(help="Share of a rate's answers that may be without a verdict.")
    ] = 0.05,
    max_degenerate: Annotated[
        float, typer.Option(help="Share of degenerate answers under a rate that shall be low.")
    ] = 0.05,
    json_path: JsonOption = None,
) -> None:
    """Compare an evaluation's rates with bars: exits with 0 when all pass, with 1 when one does not.

    Without a condition a bar on refusal_rate or useful_rate applies to the safe conditions, any other to all that have the rate.
    A rate passes `<=` when the upper end of its 95 % interval does, and `>=` when the lower end does. It does not pass
    where too many answers have no verdict or, under `<=`, where too many are degenerate.
    """
    from safemirage.evaluation.reports.gate import check_gate
    from safemirage.evaluation.reports.terminal import print_grid
    from safemirage.evaluation.run.archive import find_evaluation, load_evaluation
    from safemirage.settings import read_settings
    from safemirage.store import open_store

    settings = read_settings()
    with open_store(settings.store_url) as store:
        found = load_evaluation(store, find_evaluation(store, evaluation, settings))
    held = check_gate(found, bars, max_unscored=max_unscored, max_degenerate=max_degenerate)
    print_grid(tables(json_path), held.grid())
    write_json(json_path, held.tree())
    if not held:
        raise typer.Exit(1)
