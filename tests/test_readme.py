"""README's commands name what there is: commands, options, jobs, run files and their keys."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer.main

from safemirage.cli import app
from safemirage.config.attack import AttackConfig
from safemirage.config.attack_search import AttackSearchConfig
from safemirage.config.evaluate import EvaluateConfig
from safemirage.config.loading.load import load_config
from safemirage.config.plan import load_search
from safemirage.config.prepare import AnswersConfig
from safemirage.config.probe import RelearnConfig
from safemirage.config.serve import ServeConfig
from safemirage.config.train import TrainConfig
from tests.readme import README, commands

ROOT = README.parent
SHELL = {"source", "export", "ray", "submit()", "submit", "safemirage"}
CLASSES: dict[str, type[Any]] = {
    "attack": AttackConfig,
    "attack_search": AttackSearchConfig,
    "evaluate": EvaluateConfig,
    "prepare": AnswersConfig,
    "probe": RelearnConfig,
    "serve": ServeConfig,
    "train": TrainConfig,
}


def of(*starts: str) -> list[list[str]]:
    return [words for words in commands() if words[0] in starts]


def test_readme_has_commands_of_known_programs_only() -> None:
    assert {words[0] for words in commands()} == SHELL


@pytest.mark.parametrize("words", of("safemirage"), ids=" ".join)
def test_readme_command_and_its_options_exist(words: list[str]) -> None:
    command: Any = typer.main.get_command(app)
    rest = words[1:]
    while hasattr(command, "commands") and rest and rest[0] in command.commands:
        command = command.commands[rest.pop(0)]
    assert command.name != "safemirage", words
    known = {name for parameter in command.params for name in parameter.opts}
    assert {word for word in rest if word.startswith("--")} <= known


@pytest.mark.parametrize("words", of("submit"), ids=" ".join)
def test_readme_job_exists(words: list[str]) -> None:
    module = next(word for word in words[1:] if word != "-m")
    assert importlib.util.find_spec(module) is not None


@pytest.mark.parametrize(
    "words", [w for w in commands() if any(x.endswith(".yaml") for x in w)], ids=" ".join
)
def test_readme_run_file_takes_its_overrides(words: list[str]) -> None:
    file = next(word for word in words if word.endswith(".yaml"))
    overrides = [word for word in words if "=" in word and not word.startswith("-")]
    kind = Path(file).parts[1]
    load: Callable[..., Any] = load_search
    if kind != "search":
        load = lambda path, given: load_config(CLASSES[kind], path, given)  # noqa: E731
    assert load(ROOT / file, overrides)
