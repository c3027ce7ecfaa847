"""What every config dataclass shares: strictness, and the marks that decide a run's identity."""

from dataclasses import field
from typing import Any

from pydantic import ConfigDict


class Strict:
    """Base of config dataclasses. Unknown keys are errors, so a stale file fails before anything starts."""

    __pydantic_config__ = ConfigDict(extra="forbid")


def not_identity(default: Any) -> Any:
    """A field that cannot change the result of a run: it stays out of the run's identity."""
    return field(default=default, metadata={"identity": False})


def input_path(default: Any = ...) -> Any:
    """A field that names an input file or folder: its *content* enters the run's identity, its name does not.

    Where nothing of that name is there, `owner/name` stands for weights on the hub.
    """
    return _input("weights", default)


def data_path(default: Any = ...) -> Any:
    """An `input_path` that is never on the hub."""
    return _input("data", default)


def _input(kind: str, default: Any) -> Any:
    if default is ...:
        return field(metadata={"input": kind})
    return field(default=default, metadata={"input": kind})
