"""Says what is wrong with a config in the user's terms: dotted path, value, what is allowed."""

import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic_core import ErrorDetails

_TAG = "name"


@dataclass(frozen=True)
class _Place:
    """Where an error points: the keys that the user's file has, and the type expected there."""

    path: tuple[str, ...]
    owner: Any
    """The type of the node that holds the last key."""
    expected: Any
    siblings: tuple[Any, ...] = ()
    """The branches of the union that `owner` was picked from."""

    @property
    def dotted(self) -> str:
        return ".".join(self.path)


def explain(item: ErrorDetails, cls: type[Any]) -> str:
    """One line for one of pydantic's errors about a tree that was validated as `cls`."""
    place = _locate(item["loc"], cls)
    path = place.dotted or "(whole file)"
    value = item["input"]
    match item["type"]:
        case "unexpected_keyword_argument" | "extra_forbidden":
            return f"{path}: unknown key (value {value!r}); {_allowed_keys(place)}"
        case "missing":
            return f"{path}: missing, and has no default"
        case "union_tag_not_found":
            return (
                f"{path}.{_TAG}: missing; it says which kind it is: {_list(_tags(place.expected))}"
            )
        case "union_tag_invalid":
            tag, tags = item["ctx"]["tag"], _list(_tags(place.expected))
            return f"{path}.{_TAG}: {tag!r} is unknown; allowed: {tags}"
        case "value_error":
            problem = str(item["ctx"]["error"])
            return f"{place.dotted}: {problem}" if place.dotted else problem
        case "dataclass_type" | "dict_type":
            return f"{path}: {value!r} is not a mapping; {_allowed_keys_of(place.expected)}"
        case _:
            return f"{path}: {value!r} is not allowed: {item['msg']}"


def _locate(location: Sequence[int | str], cls: type[Any]) -> _Place:
    """Follows pydantic's location down the types. It holds a union's tag as a level, which the file does not."""
    place = _Place((), cls, cls)
    for part in location:
        expected = _plain(place.expected)
        branches = _branches(expected)
        if is_dataclass(expected):
            hints = get_type_hints(expected, include_extras=True)
            place = _Place((*place.path, str(part)), expected, hints.get(str(part)), place.siblings)
        elif part in branches:
            place = _Place(
                place.path, branches[str(part)], branches[str(part)], tuple(branches.values())
            )
        else:
            place = _Place((*place.path, str(part)), expected, _element(expected, part))
    return place


def _plain(expected: Any) -> Any:
    """The type without Annotated and without `| None`."""
    while True:
        if get_origin(expected) is Annotated:
            expected = get_args(expected)[0]
        elif len(members := _members(expected)) == 1:
            expected = members[0]
        else:
            return expected


def _members(expected: Any) -> tuple[Any, ...]:
    if get_origin(expected) not in {Union, types.UnionType}:
        return ()
    return tuple(item for item in get_args(expected) if item is not type(None))


def _branches(expected: Any) -> dict[str, Any]:
    """The dataclasses of a union by their tag; empty for any other type."""
    return {
        str(get_args(get_type_hints(item)[_TAG])[0]): item
        for item in _members(expected)
        if is_dataclass(item) and get_origin(get_type_hints(item).get(_TAG)) is Literal
    }


def _element(expected: Any, part: int | str) -> Any:
    arguments = get_args(expected)
    if get_origin(expected) is tuple and isinstance(part, int) and Ellipsis not in arguments:
        return arguments[part] if part < len(arguments) else None
    if isinstance(get_origin(expected), type) and issubclass(get_origin(expected), Mapping):
        return arguments[1]
    return arguments[0] if arguments else None


def _allowed_keys(place: _Place) -> str:
    elsewhere = [
        item for item in place.siblings if item is not place.owner and place.path[-1] in _keys(item)
    ]
    text = _allowed_keys_of(place.owner)
    if elsewhere:
        names = _list(tag for item in elsewhere for tag in _tags_of(item))
        return f"it is an option of {names}; {text}"
    return text


def _allowed_keys_of(expected: Any) -> str:
    expected = _plain(expected)
    if branches := _branches(expected):
        return f"give one with a {_TAG}: {_list(branches)}"
    tags = _tags_of(expected)
    owner = f"{tags[0]!r} has the keys" if tags else "allowed keys:"
    return f"{owner} {', '.join(sorted(_keys(expected)))}"


def _keys(expected: Any) -> set[str]:
    return {item.name for item in fields(expected)} if is_dataclass(expected) else set()


def _tags_of(expected: Any) -> tuple[str, ...]:
    hint = get_type_hints(expected).get(_TAG) if is_dataclass(expected) else None
    return get_args(hint) if get_origin(hint) is Literal else ()


def _tags(expected: Any) -> list[str]:
    return list(_branches(_plain(expected)))


def _list(items: Any) -> str:
    return ", ".join(repr(item) for item in items)
