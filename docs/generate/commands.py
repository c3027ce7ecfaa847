"""The page of the command line: every command, argument and option, as `--help` has them."""

import sys
from collections.abc import Iterator
from types import NoneType
from typing import Any, Literal, get_args, get_origin

import typer.main

from docs.generate.text import code, escape, page, paragraphs, table
from safemirage.cli import app

HEAD = """# Command line

Every command of `safemirage`, made from the commands themselves. `safemirage COMMAND --help` prints the same.

- `CONFIG` is a run file: a YAML file of your own, or a shipped one such as `configs:train/miniature_npo.yaml`
  (`safemirage list configs` shows them). Overrides such as `optim.learning_rate=3e-6` change single keys of it. The keys
  are those of the [config pages](config/index.md).
- `--json -` prints the result as JSON in place of the tables.
- Exit codes: 0 done; 1 failed, or the answer is no (a gate that does not pass, a judge that is fooled); 2 the command
  cannot start as it was asked for."""


def commands_page() -> str:
    root = typer.main.get_command(app)
    found = list(commands(root, ("safemirage",)))
    overview = table(
        ["command", "what it does"],
        [[f"[`{' '.join(words[1:])}`](#{'-'.join(words)})", _summary(one)] for words, one in found],
    )
    return page(HEAD, overview, *(_section(words, command) for words, command in found))


def commands(command: Any, words: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command below one, with the words that call it. A group that does something of its own comes first."""
    children = getattr(command, "commands", {})
    if len(words) > 1 and (not children or command.invoke_without_command):
        yield words, command
    for name, child in children.items():
        yield from commands(child, (*words, name))


def _summary(command: Any) -> str:
    return paragraphs(command.help).split("\n\n")[0]


def _section(words: tuple[str, ...], command: Any) -> str:
    usage = " ".join([*words, *filter(None, map(_usage, command.params))])
    rows = [
        [_name(parameter), _kind(parameter), _default(parameter), escape(parameter.help or "")]
        for parameter in command.params
    ]
    return page(
        f"## {' '.join(words)} {{#{'-'.join(words)}}}",
        f"```text\n{usage}\n```",
        paragraphs(command.help),
        table(["argument or option", "value", "default", "what it does"], rows),
    ).rstrip()


def _name(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return code(_argument(parameter))
    return ", ".join(map(code, [*parameter.opts, *parameter.secondary_opts]))


def _usage(parameter: Any) -> str:
    """What a parameter adds to the line of usage; options that may be left out add nothing."""
    if parameter.param_type_name == "argument":
        name = _argument(parameter)
        if name.startswith("["):  # it was written as a usage already
            return name
        name += "..." if _repeatable(parameter) else ""
        return name if parameter.required else f"[{name}]"
    return f"{parameter.opts[0]} VALUE" if parameter.required else ""


def _argument(parameter: Any) -> str:
    return str(parameter.metavar or parameter.name).upper()


def _repeatable(parameter: Any) -> bool:
    return bool(parameter.multiple or parameter.nargs == -1)


def _kind(parameter: Any) -> str:
    if getattr(parameter, "is_flag", False):
        return "switch"
    text = _annotation(parameter.type_descriptor.annotation)
    if parameter.min is not None:
        text += f", at least {parameter.min}"
    said = "repeatable" in (parameter.help or "")
    return f"{text}; repeatable" if _repeatable(parameter) and not said else text


def _annotation(annotation: Any) -> str:
    """A parameter's type in words."""
    inner = [one for one in get_args(annotation) if one is not NoneType]
    if get_origin(annotation) is Literal:
        return " or ".join(map(code, inner))
    if inner:
        return _annotation(inner[0])
    words = {"Path": "path", "str": "text", "int": "whole number", "float": "number"}
    return words.get(annotation.__name__, annotation.__name__)


def _default(parameter: Any) -> str:
    if parameter.required:
        return "required"
    default = parameter.default
    if str(default) == sys.executable:
        return "the Python that runs it"
    if isinstance(default, bool):
        return "on" if default else ""
    return "" if default in (None, (), []) or callable(default) else code(default)
