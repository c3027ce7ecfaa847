"""The pages of the config keys: one for each module of `safemirage.config`, made from its dataclasses."""

import ast
import inspect
import re
import types
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import safemirage.config
from docs.generate.text import code, escape, first_sentence, page, paragraphs, table
from safemirage.config.types import Strict

ROOTS = {
    "train": ("TrainConfig", "`safemirage train`"),
    "search": ("SearchConfig", "`safemirage search`"),
    "evaluate": ("EvaluateConfig", "`safemirage evaluate`"),
    "attack": ("AttackConfig", "`safemirage attack`"),
    "attack_search": ("AttackSearchConfig", "`safemirage attack-search`"),
    "image_controls": ("ImageControlsConfig", "`safemirage image-controls`"),
    "probe": ("RelearnConfig, AdapterProbeConfig, QuantiseConfig", "`safemirage probe`"),
    "prepare": ("AnswersConfig", "`safemirage prepare answers`"),
    "serve": ("ServeConfig", "`safemirage serve`"),
    "reproduce": ("ReproduceConfig", "`safemirage reproduce`, `safemirage demo`"),
}
"""Module -> the classes that a whole run file is read as, and the commands that read it."""
INDEX = """# Config keys

A run file is YAML. Every key, its type and its default are below, made from the classes that the file is read as. An
unknown key, a wrong type or another kind's key is refused, with the dotted path, before anything starts.

- An override on the command line is the dotted path of a key: `optim.learning_rate=3e-6`. A number selects an entry of a
  list: `judges.0.model.url=http://127.0.0.1:8002/v1`. A list or a mapping is given as YAML:
  `'judges=[{name: refusal_rules}]'`.
- Where a key takes one of several kinds, its `name` says which: `method: {name: npo, beta: 0.5}`.
- Keys marked *not in the identity* cannot change a result. A run that differs from a finished one only in them is the
  same run."""


@dataclass(frozen=True)
class Module:
    """A module of `safemirage.config` with its config classes, in the order of the file."""

    name: str
    classes: tuple[type[Any], ...]

    @property
    def page(self) -> str:
        return f"{self.name}.md"


def modules() -> list[Module]:
    folder = Path(str(safemirage.config.__file__)).parent
    found = []
    for path in sorted(folder.glob("*.py")):
        loaded = import_module(f"safemirage.config.{path.stem}")
        classes = [
            item
            for item in vars(loaded).values()
            if inspect.isclass(item) and is_dataclass(item) and item.__module__ == loaded.__name__
            if issubclass(item, Strict) and not item.__name__.startswith("_")
        ]
        if classes:
            found.append(Module(path.stem, tuple(classes)))
    return found


def key_pages() -> dict[str, str]:
    """File below `reference/config/` -> its text."""
    found = modules()
    homes = {cls: module.page for module in found for cls in module.classes}
    return {
        "index.md": page(INDEX, _overview(found)),
        **{module.page: _module_page(module, homes) for module in found},
    }


def _overview(found: Sequence[Module]) -> str:
    whole = [
        [f"[{title(one.name)}]({one.page})", f"`configs/{one.name}/`", ROOTS[one.name][1]]
        for one in found
        if one.name in ROOTS
    ]
    parts = [
        [f"[{title(one.name)}]({one.page})", ", ".join(code(cls.__name__) for cls in one.classes)]
        for one in found
        if one.name not in ROOTS
    ]
    return page(
        "## Whole run files",
        table(["page", "shipped files", "read by"], whole),
        "## Parts of them",
        table(["page", "classes"], parts),
    ).rstrip()


def title(name: str) -> str:
    return name.replace("\\", "").replace("_", " ")


def _module_page(module: Module, homes: Mapping[type[Any], str]) -> str:
    about = inspect.getdoc(import_module(f"safemirage.config.{module.name}"))
    roots = ROOTS.get(module.name, ("", ""))[0].split(", ")
    # A reader comes with a whole file in hand: its own keys first, then those of its parts.
    ordered = sorted(module.classes, key=lambda cls: cls.__name__ not in roots)
    return page(
        f"# Keys: {title(module.name)}",
        _linked(paragraphs(about)),
        *(_class_section(cls, homes, whole=cls.__name__ in roots) for cls in ordered),
    )


def _linked(text: str) -> str:
    """Module names and paths of pages as links."""
    text = re.sub(
        r"docs/((?:\w|\\_)+)/((?:\w|\\_)+)\.md",
        lambda at: f"[{title(at[2])}](../../{at[1]}/{at[2]}.md)".replace("\\", ""),
        text,
    )
    return re.sub(r"`(\w+)\.py`", lambda at: f"[{title(at[1])}]({at[1]}.md)", text)


def _class_section(cls: type[Any], homes: Mapping[type[Any], str], *, whole: bool) -> str:
    tag = tag_of(cls)
    heading = f"`name: {tag}`" if tag else f"`{cls.__name__}`"
    rows = [
        [code(key.name), _type(key.hint, homes), key.default, key.text]
        for key in keys(cls)
        if key.name != "name" or not tag
    ]
    return page(
        f"## {heading} {{#{cls.__name__.lower()}}}",
        "The whole file." if whole else "",
        paragraphs(doc_of(cls)),
        table(["key", "type", "default", "what it is"], rows) or "It has no keys but `name`.",
    ).rstrip()


def doc_of(cls: type[Any]) -> str:
    """A class's docstring; not the signature that `dataclass` puts in its place."""
    text = cls.__doc__ or ""
    return "" if text.startswith(f"{cls.__name__}(") else text


def tag_of(cls: type[Any]) -> str:
    """The `name` by which a union picks this class; empty for other classes."""
    hint = get_type_hints(cls).get("name")
    return str(get_args(hint)[0]) if get_origin(hint) is Literal else ""


@dataclass(frozen=True)
class Key:
    name: str
    hint: Any
    default: str
    text: str
    """Empty where neither the field nor the class of its value has a docstring."""


def keys(cls: type[Any]) -> list[Key]:
    hints = get_type_hints(cls, include_extras=True)
    docs = {name: text for base in reversed(cls.__mro__) for name, text in field_docs(base).items()}
    return [_key(item, hints[item.name], docs) for item in fields(cls)]


def _key(item: "Field[Any]", hint: Any, docs: Mapping[str, str]) -> Key:
    text = re.sub(r"\bNone\b", "`null`", " ".join(docs.get(item.name, "").split()))
    inner = _dataclasses(hint)
    said = escape(text) if text else first_sentence(doc_of(inner[0])) if len(inner) == 1 else ""
    if not said and inner:
        said = f"One of {', '.join(code(tag_of(one) or one.__name__) for one in inner)}; see there."
    if item.metadata.get("identity") is False:
        said = f"{said} *Not in the identity.*".strip()
    return Key(item.name, hint, _default(item), said)


def field_docs(cls: type[Any]) -> dict[str, str]:
    """The texts that stand below a class's fields."""
    if cls is object or not is_dataclass(cls):
        return {}
    try:
        [tree] = ast.parse(inspect.cleandoc("\n" + inspect.getsource(cls))).body
    except OSError:
        return {}
    assert isinstance(tree, ast.ClassDef)
    return {
        line.target.id: after.value.value
        for line, after in zip(tree.body, tree.body[1:], strict=False)
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name)
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
        if isinstance(after.value.value, str)
    }


def _default(item: "Field[Any]") -> str:
    if item.default is not MISSING:
        value = item.default
    elif item.default_factory is not MISSING:
        value = item.default_factory()
    else:
        return "required"
    return code(_value(value))


def _value(value: Any) -> str:
    """A default as YAML writes it; of a mapping with keys of its own only what picks it."""
    if is_dataclass(value) and not isinstance(value, type):
        tag = tag_of(type(value))
        changed = [
            f"{item.name}: {_value(getattr(value, item.name))}"
            for item in fields(value)
            if item.name != "name" and getattr(value, item.name) != _of_class(item)
        ]
        return "{" + ", ".join(([f"name: {tag}"] if tag else []) + changed) + "}"
    if isinstance(value, tuple | list):
        return "[" + ", ".join(map(_value, value)) + "]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_value(one)}" for key, one in value.items()) + "}"
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return str(value) if value != "" else "''"


def _of_class(item: "Field[Any]") -> Any:
    if item.default_factory is not MISSING:
        return item.default_factory()
    return item.default


def _type(hint: Any, homes: Mapping[type[Any], str]) -> str:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _type(arguments[0], homes) + _bounds(arguments[1:])
    if origin in {Union, types.UnionType}:
        if {bool, int, float, str} <= set(arguments):
            return "any value"
        return " or ".join(_type(one, homes) for one in arguments)
    if origin is Literal:
        return " or ".join(code(one) for one in arguments)
    if origin is tuple:
        inner = [one for one in arguments if one is not Ellipsis]
        if len(inner) > 1:
            return "[" + ", ".join(_type(one, homes) for one in inner) + "]"
        return f"list of {_type(inner[0], homes)}"
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return f"mapping from {_type(arguments[0], homes)} to {_type(arguments[1], homes)}"
    if is_dataclass(hint):
        assert isinstance(hint, type)
        name = code(tag_of(hint) or hint.__name__)
        return f"[{name}]({homes[hint]}#{hint.__name__.lower()})" if hint in homes else name
    named = {"JsonValue": "anything"}
    plain = {str: "text", int: "whole number", float: "number", bool: "`true` or `false`"}
    return {**plain, type(None): "`null`", Any: "anything"}.get(hint) or named.get(
        hint.__name__, code(hint.__name__)
    )


def _bounds(marks: Sequence[Any]) -> str:
    signs = {"gt": "&gt;", "ge": "&ge;", "lt": "&lt;", "le": "&le;"}
    parts = []
    for mark in [part for one in marks for part in getattr(one, "metadata", [one])]:
        parts += [
            f"{sign} {value}"
            for name, sign in signs.items()
            if (value := getattr(mark, name, None)) is not None
        ]
        if (least := getattr(mark, "min_length", None)) is not None:
            parts.append(f"at least {least}")
    return f" ({', '.join(parts)})" if parts else ""


def _dataclasses(hint: Any) -> list[type[Any]]:
    """The config classes that a value of this type is made of, those inside a list too."""
    if is_dataclass(hint):
        assert isinstance(hint, type)
        return [hint]
    if get_origin(hint) is Annotated:
        return _dataclasses(get_args(hint)[0])
    return [one for argument in get_args(hint) for one in _dataclasses(argument)]
