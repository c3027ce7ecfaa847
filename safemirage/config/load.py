"""Config files: YAML, then `a.b=c` overrides, then one validated tree of frozen dataclasses."""

import json
import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError

from safemirage.config.explain import explain

T = TypeVar("T")


class ConfigError(ValueError):
    """A config that cannot be used. One line a problem: file, dotted path, value, what is allowed."""


class _Loader(yaml.SafeLoader):
    """YAML 1.1 reads `5e-7` as text, and takes the last of two equal keys in silence; this loader does neither."""

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


# A date is text: nothing in the tree is one, and JSON has none.
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:\d[\d_]*\.?[\d_]*|\.\d[\d_]*)[eE][-+]?\d+$"),
    list("-+0123456789."),
)


def parse_yaml(text: str) -> Any:
    return yaml.load(text, Loader=_Loader)


def read_tree(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        ConfigError: the file cannot be read, is not YAML, or holds something other than a mapping.
    """
    try:
        tree = parse_yaml(path.read_text(encoding="utf-8"))
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
    """A copy of `tree` with each `a.b=c` set; `c` is read as YAML.

    Raises:
        ConfigError: an item has no `=` or an empty key, or sets a key below something that is not a mapping.
    """
    result = _copy(tree)
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
    """Sets the dotted `key` in place. Raises ConfigError where a parent of it is not a mapping."""
    *parents, leaf = key.split(".")
    node = tree
    for depth, parent in enumerate(parents):
        child = node.setdefault(parent, {})
        if child is None:
            child = node[parent] = {}
        if not isinstance(child, dict):
            above = ".".join(parents[: depth + 1])
            raise ConfigError(f"{key}: cannot be set, because {above} is {child!r}, not a mapping")
        node = child
    node[leaf] = value


def build_config(cls: type[T], tree: Mapping[str, Any], *, source: str = "config") -> T:
    """The typed config of `tree`. Types are strict: neither "5" nor true is a number.

    Raises:
        ConfigError: lists every problem with its dotted path.
    """
    if foreign := _foreign(tree):
        raise ConfigError("\n".join(f"{source}: {problem}" for problem in foreign))
    try:
        return TypeAdapter(cls).validate_json(json.dumps(tree), strict=True)
    except ValidationError as error:
        problems = [f"{source}: {explain(item, cls)}" for item in error.errors()]
        raise ConfigError("\n".join(problems)) from error


def load_config(cls: type[T], path: Path | str, overrides: Sequence[str] = ()) -> T:
    """Reads a YAML file, applies `a.b=c` overrides, and validates the result as `cls`."""
    path = Path(path)
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
    return yaml.safe_dump(to_tree(config), sort_keys=False, allow_unicode=True)


def _copy(tree: Any) -> Any:
    if isinstance(tree, Mapping):
        return {key: _copy(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [_copy(value) for value in tree]
    return tree


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
