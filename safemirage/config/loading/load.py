"""Config files: YAML, then `a.b=c` overrides, then one validated tree of frozen dataclasses."""

import json
import re
from collections.abc import Hashable, Mapping, Sequence
from copy import deepcopy
from dataclasses import fields, is_dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError

from safemirage.config.loading.explain import explain

T = TypeVar("T")


class ConfigError(ValueError):
    """A config that cannot be used. One line a problem: file, dotted path, value, what is allowed."""


SHIPPED = "configs:"
"""What the name of a run file starts with that is shipped with this package."""
_CORE_SCALARS = {
    "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "bool": (r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    "int": (r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    "float": (
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
}
"""The plain words of YAML 1.2's core schema that are no text, and the letters that they start with."""


class _Loader(yaml.SafeLoader):
    """Plain words are read as YAML 1.2's core schema has it, and a key that stands twice is an error.

    PyYAML follows YAML 1.1: `yes`, `no`, `on` and `off` are booleans there, `5e-7` is text, `1:30` a number to the base
    of sixty, `010` an octal one, and a date is a date. A judge's label `no` or a title `on` is text here.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} is not a plain value", key_node.start_mark
                )
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} stands twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)

    def construct_int(self, node: yaml.ScalarNode) -> int:
        text = self.construct_scalar(node)
        return int(text, 0) if text.startswith(("0o", "0x")) else int(text)


class _Dumper(yaml.SafeDumper):
    """Quotes a text that either version of YAML would read as something else."""


_Loader.yaml_implicit_resolvers = {}
for _kind, (_pattern, _first) in _CORE_SCALARS.items():
    for _side in (_Loader, _Dumper):
        _side.add_implicit_resolver(
            f"tag:yaml.org,2002:{_kind}", re.compile(f"^(?:{_pattern})$"), _first
        )
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_int)


def parse_yaml(text: str) -> Any:
    return yaml.load(text, Loader=_Loader)


def run_file(path: Path | str, *, beside: Path | None = None) -> Path:
    """Where a run file lies.

    Args:
        path: a path, or `configs:train/miniature_npo.yaml` for a file that is shipped with this package.
        beside: the folder that a relative path is looked up in; None: the one that the process works in.

    Raises:
        ConfigError: no such file is shipped.
    """
    text = str(path)
    if not text.startswith(SHIPPED):
        given = Path(path).expanduser()
        return given if beside is None else beside / given
    found = shipped_configs() / text.removeprefix(SHIPPED)
    if not found.is_file():
        raise ConfigError(
            f"{text}: no such file is shipped; `safemirage list configs` shows those that are"
        )
    return found


def shipped_configs() -> Path:
    """The folder of the run files that are shipped: beside this package, in a checkout as where it is installed."""
    return Path(str(files("safemirage"))).parent / "configs"


def read_tree(path: Path | str) -> dict[str, Any]:
    """The mapping in a YAML file, which `run_file` finds.

    Raises:
        ConfigError: the file cannot be read, is not YAML, or holds something other than a mapping.
    """
    try:
        tree = parse_yaml(run_file(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path}: is not UTF-8 text: {error.reason} at byte {error.start}"
        ) from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: is not YAML: {error}") from error
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(
            f"{path}: holds {type(tree).__name__}, but a config file is a mapping of keys"
        )
    return tree


def apply_overrides(tree: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """A copy of `tree` with each `a.b=c` set; `c` is read as YAML. `a.0.b=c` reaches into a list.

    Raises:
        ConfigError: an item has no `=` or an empty key, or names a place that `set_path` refuses.
    """
    result = deepcopy(dict(tree))
    for item in overrides:
        key, equals, text = item.partition("=")
        if not equals or not all(key.split(".")):
            raise ConfigError(f"override {item!r}: write it as a.b=value")
        try:
            value = parse_yaml(text)
        except yaml.YAMLError as error:
            raise ConfigError(f"override {item!r}: the value is not YAML: {error}") from error
        set_path(result, key, value)
    return result


def set_path(tree: dict[str, Any], key: str, value: Any) -> None:
    """Sets the dotted `key` in place; a number in it is an index where a list stands.

    Raises:
        ConfigError: a parent of it is neither a mapping nor a list; an index that its list does not have.
    """
    *parents, leaf = key.split(".")
    node: Any = tree
    for depth, parent in enumerate(parents):
        above = ".".join(parents[: depth + 1])
        if isinstance(node, dict) and node.get(parent) is None:
            node[parent] = {}
        node = node[_step(node, parent, key, above)]
        if not isinstance(node, dict | list):
            raise ConfigError(f"{key}: cannot be set, because {above} is {node!r}, not a mapping")
    node[_step(node, leaf, key, key)] = value


def _step(node: dict[str, Any] | list[Any], part: str, key: str, above: str) -> Any:
    """What leads from `node` to the child that `part` of `key` names."""
    if isinstance(node, dict):
        return part
    if not part.isdecimal() or int(part) >= len(node):
        place = above.rpartition(".")[0]
        counted = f"0 to {len(node) - 1}" if node else "none"
        raise ConfigError(
            f"{key}: {place} is a list of length {len(node)}, and {part!r} is no index of it; allowed: {counted}. "
            f"{place}=[...] replaces the whole list"
        )
    return int(part)


def build_config(cls: type[T], tree: Mapping[str, Any], *, source: str = "config") -> T:
    """The typed config of `tree`. Types are strict: neither "5" nor true is a number.

    Raises:
        ConfigError: lists every problem with its dotted path.
    """
    if foreign := _foreign(tree):
        raise ConfigError("\n".join(f"{source}: {problem}" for problem in foreign))
    try:
        adapter: TypeAdapter[T] = _adapter(cls)  # type: ignore[arg-type]  # a class has a hash
        return adapter.validate_json(json.dumps(tree), strict=True)
    except ValidationError as error:
        problems = [f"{source}: {explain(item, cls)}" for item in error.errors()]
        raise ConfigError("\n".join(problems)) from error


@cache
def _adapter(cls: type[T]) -> TypeAdapter[T]:
    """Kept: a listing builds the records of one class many times."""
    return TypeAdapter(cls)


def load_config(cls: type[T], path: Path | str, overrides: Sequence[str] = ()) -> T:
    """Reads a YAML file, applies `a.b=c` overrides, and validates the result as `cls`."""
    return build_config(cls, apply_overrides(read_tree(path), overrides), source=str(path))


def to_tree(config: Any) -> Any:
    """The plain tree of a config: dicts, lists and scalars that YAML and JSON can hold."""
    if is_dataclass(config) and not isinstance(config, type):
        return {item.name: to_tree(getattr(config, item.name)) for item in fields(config)}
    if isinstance(config, Mapping):
        return {str(key): to_tree(value) for key, value in config.items()}
    if isinstance(config, list | tuple):
        return [to_tree(value) for value in config]
    return config


def dump_yaml(config: Any) -> str:
    return yaml.dump(to_tree(config), Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def _foreign(tree: Any, path: tuple[str, ...] = ()) -> list[str]:
    """Every value that neither YAML nor JSON can hold, with its dotted path."""
    if isinstance(tree, Mapping):
        return [item for key, value in tree.items() for item in _foreign(value, (*path, str(key)))]
    if isinstance(tree, list | tuple):
        return [
            item for key, value in enumerate(tree) for item in _foreign(value, (*path, str(key)))
        ]
    if tree is None or isinstance(tree, str | int | float | bool):
        return []
    return [f"{'.'.join(path)}: {tree!r} is {type(tree).__name__}, not a plain value"]
