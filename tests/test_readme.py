"""What README and the pages of docs show: each block says what it is, and its commands name what there is."""

import ast
import importlib.util
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer.main

from safemirage.cli import app
from safemirage.config.attack import AttackConfig
from safemirage.config.attack_search import AttackSearchConfig
from safemirage.config.evaluate import EvaluateConfig
from safemirage.config.image_controls import ImageControlsConfig
from safemirage.config.loading.load import load_config, parse_yaml, run_file
from safemirage.config.plan import load_search
from safemirage.config.prepare import AnswersConfig
from safemirage.config.probe import AdapterProbeConfig, QuantiseConfig, RelearnConfig
from safemirage.config.reproduce import ReproduceConfig
from safemirage.config.serve import ServeConfig
from safemirage.config.train import TrainConfig
from tests.readme import PAGES, ROOT, Block, blocks

CLASSES: dict[str, type[Any]] = {
    "attack": AttackConfig,
    "attack_search": AttackSearchConfig,
    "image_controls": ImageControlsConfig,
    "evaluate": EvaluateConfig,
    "prepare": AnswersConfig,
    "reproduce": ReproduceConfig,
    "serve": ServeConfig,
    "train": TrainConfig,
    "adapter.yaml": AdapterProbeConfig,
    "quantise.yaml": QuantiseConfig,
    "relearn.yaml": RelearnConfig,
}
"""Folder of run files, or name of one, -> what it is read as."""
JOURNEYS = ("README.md", "docs/start.md", "docs/guides/")
"""The pages whose blocks are run, or say why not; concepts and reference show single commands."""
OURS = {"safemirage", "ray_jobs", "serve_app", "tests"}
BLOCKS = [block for page in PAGES for block in blocks(page)]
COMMANDS = [
    (block, words[words.index("safemirage") + 1 :])
    for block in BLOCKS
    if block.language == "sh"
    for words in block.commands()
    if "safemirage" in words[:2]
]


def test_every_block_says_what_it_is_and_which_test_runs_it() -> None:
    unnamed = [f"{b.page}: {b.text[:60]}" for b in BLOCKS if not b.language]
    assert unnamed == [], "name the language; `text` is for what is printed"
    for block in BLOCKS:
        if block.is_code and block.runner and block.page.startswith(JOURNEYS):
            assert (ROOT / block.runner).is_file(), block.page
            name = Path(block.page).stem.lower()
            assert name in (ROOT / block.runner).read_text().lower(), (
                f"{block.runner} does not run {block.page}"
            )


@pytest.mark.parametrize(
    "block", [b for b in BLOCKS if b.language == "python"], ids=lambda b: b.page
)
def test_python_of_a_page_imports_what_there_is(block: Block) -> None:
    for node in ast.walk(ast.parse(block.text)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in OURS:
            spec = importlib.util.find_spec(node.module)
            assert spec is not None, node.module
            assert spec.origin is not None
            # Read, not imported: some of these modules bring torch.
            source = Path(spec.origin).read_text()
            assert [one.name for one in node.names if one.name not in source] == []


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == "yaml"], ids=lambda b: b.page)
def test_yaml_of_a_page_is_what_the_loader_reads(block: Block) -> None:
    assert isinstance(parse_yaml(block.text), dict)


def test_commands_of_the_pages_exist_with_their_options() -> None:
    assert len(COMMANDS) > 40
    root: Any = typer.main.get_command(app)
    for block, words in COMMANDS:
        command, rest = root, list(words)
        while hasattr(command, "commands") and rest and rest[0] in command.commands:
            command = command.commands[rest.pop(0)]
        assert command is not root, (block.page, words)
        known = {name for parameter in command.params for name in parameter.opts}
        if "--" in rest:
            rest = rest[: rest.index("--")]
        unknown = {word.partition("=")[0] for word in rest if word.startswith("--")} - known
        assert not unknown, (block.page, words)


def test_shipped_run_files_of_the_pages_take_their_overrides() -> None:
    seen = 0
    for block, words in COMMANDS:
        named = [word for word in words if re.match(r"configs[:/].*\.yaml$", word)]
        for file in named:
            path = run_file(file if file.startswith("configs:") else ROOT / file)
            overrides = [word for word in words if re.match(r"[a-z][\w.]*=", word)]
            load: Callable[..., Any] = load_search
            if path.parent.name != "search":
                cls = CLASSES.get(path.name) or CLASSES[path.parent.name]
                load = lambda path, given, cls=cls: load_config(cls, path, given)  # noqa: E731
            assert load(path, overrides), (block.page, words)
            seen += 1
    assert seen > 15


def test_modules_of_jobs_exist() -> None:
    named = {name for block in BLOCKS for name in re.findall(r"-m ((?:ray_jobs|tests)[\w.]*)|submit (ray_jobs[\w.]*)", block.text)}  # fmt: skip
    for pair in named:
        assert importlib.util.find_spec("".join(pair)) is not None, pair
