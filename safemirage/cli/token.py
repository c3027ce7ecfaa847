"""`safemirage token create | list | revoke`: who may call the service, and for what."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from safemirage.cli.output import JsonOption, tables, write_json

if TYPE_CHECKING:
    from safemirage.store.tokens import TokenFile

app = typer.Typer(
    no_args_is_help=True, help="Create, list and revoke the bearer tokens of the service."
)


@app.command("create")
def create(
    name: Annotated[str, typer.Argument(help="Who gets it; audit log and evaluations say it.")],
    scopes: Annotated[
        str,
        typer.Option(
            help="What it may do, commas between: chat, judge, evaluate, read, unredacted, admin."
        ),
    ] = "chat,judge,evaluate,read",
    days: Annotated[
        float | None,
        typer.Option(min=0, help="How long it holds; without it, until it is revoked."),
    ] = None,
) -> None:
    """Print a new token, which is shown this once: the storage keeps its digest only. A running service takes it at once."""
    record, token = _file().create(name, [one.strip() for one in scopes.split(",")], days=days)
    until = (
        "until it is revoked"
        if record.expires_at is None
        else f"until {record.expires_at:%F %R} UTC"
    )
    Console(stderr=True, soft_wrap=True).print(
        f"{name}: {', '.join(record.scopes)}; {until}", markup=False
    )
    typer.echo(token)


@app.command("list")
def list_tokens(json_path: JsonOption = None) -> None:
    """Show every token's name, scopes and end; never the token."""
    from safemirage.evaluation.reports.grid import Grid
    from safemirage.evaluation.reports.terminal import print_grid

    now = datetime.now(UTC)
    found = [
        {
            "name": one.name,
            "state": one.state(now),
            "scopes": ", ".join(one.scopes),
            "expires": f"{one.expires_at:%F %R}" if one.expires_at else "never",
        }
        for one in _file().records()
    ]
    write_json(json_path, {"tokens": found})
    header = ["name", "state", "scopes", "expires"]
    lines = [[one[column] for column in header] for one in found]
    print_grid(tables(json_path), Grid(title="", header=header, lines=lines))


@app.command("revoke")
def revoke(name: Annotated[str, typer.Argument(help="The name of a valid token.")]) -> None:
    """End a token. A running service refuses it from now on."""
    _file().revoke(name)
    Console(stderr=True, soft_wrap=True).print(f"{name}: revoked", markup=False)


def _file() -> "TokenFile":
    from safemirage.settings import read_settings
    from safemirage.store.tokens import TokenFile

    return TokenFile(read_settings().storage.tokens)
