"""Every file under configs/ is a valid config of its folder's class."""

import importlib
from pathlib import Path
from typing import Any

import pytest

import configs
from safemirage.config.load import load_config

ROOT = Path(configs.__file__).parent
CLASSES = {
    "attack": "AttackConfig",
    "attack_search": "AttackSearchConfig",
    "evaluate": "EvaluateConfig",
    "prepare": "AnswersConfig",
    "reproduce": "ReproduceConfig",
    "search": "SearchConfig",
    "serve": "ServeConfig",
    "train": "TrainConfig",
}
"""Folder, which is also the name of the module under safemirage.config, and the class of its files."""

FILES = sorted(
    path for path in ROOT.rglob("*") if path.is_file() and path.suffix not in {".py", ".pyc"}
)


def class_of(path: Path) -> type[Any]:
    folder = path.relative_to(ROOT).parts[0]
    module = importlib.import_module(f"safemirage.config.{folder}")
    result: type[Any] = getattr(module, CLASSES[folder])
    return result


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_config_file_loads(path: Path) -> None:
    assert path.suffix == ".yaml"
    load_config(class_of(path), path)


def test_config_files_are_found() -> None:
    assert {path.parent.name for path in FILES} >= {"train", "reproduce"}
