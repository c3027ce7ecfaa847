"""Every file under configs/ is a valid config of its folder's class."""

import importlib
from pathlib import Path
from typing import Any

import pytest

import configs
from safemirage.config.loading.load import load_config

ROOT = Path(configs.__file__).parent
CLASSES = {
    "attack": "AttackConfig",
    "attack_search": "AttackSearchConfig",
    "evaluate": "EvaluateConfig",
    "image_controls": "ImageControlsConfig",
    "prepare": "AnswersConfig",
    "probe/adapter.yaml": "AdapterProbeConfig",
    "probe/quantise.yaml": "QuantiseConfig",
    "probe/relearn.yaml": "RelearnConfig",
    "reproduce": "ReproduceConfig",
    "search": "SearchConfig",
    "serve": "ServeConfig",
    "train": "TrainConfig",
}
"""Folder, or file, and the class of its files; the folder is also the name of the module under safemirage.config."""

FILES = sorted(
    path
    for path in ROOT.rglob("*")
    if path.is_file()
    and path.suffix not in {".py", ".pyc"}
    and path.relative_to(ROOT).parts[0]
    != "cluster"  # other programs' files: tests/ray_jobs/test_cluster_files.py
)


def class_of(path: Path) -> type[Any]:
    file = path.relative_to(ROOT)
    folder = file.parts[0]
    module = importlib.import_module(f"safemirage.config.{folder}")
    result: type[Any] = getattr(module, CLASSES.get(folder) or CLASSES[file.as_posix()])
    return result


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_config_file_loads(path: Path) -> None:
    assert path.suffix == ".yaml"
    load_config(class_of(path), path)


def test_config_files_are_found() -> None:
    assert {path.parent.name for path in FILES} >= {"train", "reproduce"}
