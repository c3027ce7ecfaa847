"""What every config dataclass shares: strictness, and the marks that decide a run's identity."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field, fields, is_dataclass
from typing import Annotated, Any

from pydantic import ConfigDict, Field

Count = Annotated[int, Field(ge=1)]
NonNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]


class Strict:
    """Base of config dataclasses. Unknown keys are errors, so a stale file fails before anything starts."""

    __pydantic_config__ = ConfigDict(extra="forbid")


_NAME = re.compile(r"\w[\w.+=-]{0,159}")


def check_name(name: str) -> None:
    """Refuses a name that could not be the start of a folder's name. Raises ValueError."""
    if _NAME.fullmatch(name) is None:
        raise ValueError(
            f"name: {name!r} is not allowed: folders are named by it; give at most 160 letters, digits and any of "
            "`_.+=-`, the first a letter, a digit or `_`"
        )


def nodes(config: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Every dataclass of a config's tree, itself included, with its dotted key below `key`."""
    if is_dataclass(config):
        yield key, config
        children: Mapping[str, Any] = {
            item.name: getattr(config, item.name) for item in fields(config)
        }
    elif isinstance(config, Mapping):
        children = config
    elif isinstance(config, Sequence) and not isinstance(config, str):
        children = {str(index): item for index, item in enumerate(config)}
    else:
        return
    for name, child in children.items():
        yield from nodes(child, joined(key, name))


def joined(key: str, name: str) -> str:
    """The dotted key of what stands below `key`."""
    return f"{key}.{name}" if key else name


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


def image_folder() -> Any:
    """A field that names a folder of images: looked up as data are; out of the identity, as the images count by content."""
    return field(metadata={"input": "data", "identity": False})


def _input(kind: str, default: Any) -> Any:
    if default is ...:
        return field(metadata={"input": kind})
    return field(default=default, metadata={"input": kind})
