"""Config files: YAML, then `a.b=c` overrides, then one validated tree of frozen dataclasses."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import yaml
from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

T = TypeVar("T")


class ConfigError(ValueError):
    """A config that cannot be used. One line a problem: file, dotted path, value, what is allowed."""


class _Loader(yaml.SafeLoader):
    """YAML 1.1 reads `5e-7` as text, and takes the last of two equal keys in silence; this loader does neither."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} stands twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:\d[\d_]*\.?[\d_]*|\.\d[\d_]*)[eE][-+]?\d+$"),
    list("-+0123456789."),
)


def parse_yaml(text: str) -> Any:
    return yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader


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
        raise ConfigError(f"{path}: is not UTF-8 text: {error.reason} at byte {error.start}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: is not YAML: {error}") from error
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: holds {type(tree).__name__}, but a config file is a mapping of keys")
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
    """The typed config of `tree`. Raises ConfigError that lists every problem with its dotted path."""
    try:
        return cast(T, TypeAdapter(cls).validate_python(_copy(tree)))
    except ValidationError as error:
        problems = [f"{source}: {_explain(item, tree)}" for item in error.errors()]
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


def _explain(item: ErrorDetails, tree: Mapping[str, Any]) -> str:
    path = ".".join(str(part) for part in _without_tags(item["loc"], tree)) or "(whole file)"
    kind, value = item["type"], item["input"]
    match kind:
        case "unexpected_keyword_argument" | "extra_forbidden":
            return f"{path}: unknown key (value {value!r}); {_options(item, tree)}"
        case "missing":
            return f"{path}: missing, and has no default"
        case "union_tag_not_found":
            return f"{path}: needs a `name` that says which kind it is"
        case "union_tag_invalid":
            allowed = item.get("ctx", {}).get("expected_tags", "")
            return f"{path}.name: {item.get('ctx', {}).get('tag', value)!r} is unknown; allowed: {allowed}"
        case "value_error":
            return f"{path}: {item['ctx']['error']}"
        case _:
            return f"{path}: {value!r} is not allowed: {item['msg']}"


def _options(item: ErrorDetails, tree: Mapping[str, Any]) -> str:
    parts = _without_tags(item["loc"], tree)
    node: Any = tree
    for part in parts[:-1]:
        node = node[part]
    name = node.get("name") if isinstance(node, dict) and len(parts) > 1 else None
    owner = f"{parts[-2]} {name!r}" if name else (str(parts[-2]) if len(parts) > 1 else "the file")
    return f"{owner} has no such option"


def _without_tags(location: Sequence[int | str], tree: Any) -> list[int | str]:
    """pydantic puts a union's tag into the path; a user's file has no such level."""
    path: list[int | str] = []
    node = tree
    for index, part in enumerate(location):
        last = index == len(location) - 1
        if isinstance(node, Mapping):
            if part in node:
                path.append(part)
                node = node[part]
            elif part == node.get("name") and not last:
                continue
            elif last or isinstance(part, str):
                if not last:
                    continue
                path.append(part)
        elif isinstance(node, list | tuple) and isinstance(part, int) and part < len(node):
            path.append(part)
            node = node[part]
        # below a scalar: the name of a union's branch, which the file does not have
    return path
