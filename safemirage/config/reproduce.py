"""The chain of `make demo`: a world, the models of the table, the suites. Files: configs/reproduce/*.yaml."""

from dataclasses import dataclass, field
from typing import Annotated

from pydantic import Field

from safemirage.config.generators import DecodingConfig
from safemirage.config.types import Strict, not_identity


@dataclass(frozen=True, kw_only=True)
class ModelEntry(Strict):
    """One row of the table: a training run, or the point that a search chose."""

    name: str
    """The row's name in report.json."""
    train: str
    """Train file, relative to the file that holds this entry."""
    overrides: tuple[str, ...] = ()
    """`a.b=c` on the train file."""
    search: str | None = None
    """Search file, relative likewise: the row is then the point that the search chose, trained from `train`
    with `overrides` and the values of that point."""
    says: str = ""
    """What this row is, in words, for the report."""


@dataclass(frozen=True, kw_only=True)
class ReproduceConfig(Strict):
    name: str = "miniature"
    """Start of the names of the folder and of the evaluations."""
    seed: int = 0
    """Seed of the world and of every run in it."""
    models: Annotated[tuple[ModelEntry, ...], Field(min_length=1)]
    judges: tuple[str, ...] = ("oracle", "useful", "keywords")
    """Judges of the service, by name."""
    decoding: DecodingConfig = field(default_factory=lambda: DecodingConfig(max_new_tokens=16))
    serve: str = "../serve/local.yaml"
    """Serve file, relative to this one."""
    serve_overrides: tuple[str, ...] = not_identity(())
    """`a.b=c` on the serve file."""
    keep_service: bool = not_identity(False)
    """Leave the service up when the chain has ended; it then lives as long as the cluster."""

    def __post_init__(self) -> None:
        names = [entry.name for entry in self.models]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"models: the names {twice} stand twice; every row needs its own")
