"""`miniature:` paths in train files.

    miniature:initial        a fresh model with its pre-trained vision tower
    miniature:base           the export of configs/train/miniature_base.yaml, trained first where it is missing
    miniature:train/forget.json, miniature:images, miniature:suites/selection ...   files and folders of the world

The world's seed is the run's `seed`, so one number makes a chain of its own.
"""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from safemirage.config.loading.load import ConfigError, load_config
from safemirage.config.train import TrainConfig
from safemirage.config.world import MINIATURE, WorldConfig, is_miniature
from safemirage.files import whole_folder
from safemirage.miniature.model import build_initial_model
from safemirage.miniature.world import World, build_world
from safemirage.storage import Storage

BASE_CONFIG = "configs:train/miniature_base.yaml"

TrainBase = Callable[[TrainConfig], Path]
"""Trains a config and says where its export lies."""


def base_config(seed: int) -> TrainConfig:
    """The miniature's base run for one seed."""
    return load_config(TrainConfig, BASE_CONFIG, [f"seed={seed}"])


def resolve_miniature(config: TrainConfig, storage: Storage, train_base: TrainBase) -> TrainConfig:
    """`config` with every `miniature:` path replaced by a real one; builds and trains what is missing.

    Raises:
        ConfigError: a path names no part of the world.
    """
    if not config.needs_miniature:
        return config
    world = build_world(WorldConfig(seed=config.seed), storage)
    data = config.data.with_paths(lambda name, path: _world_path(f"data.{name}", path, world))
    model = config.model.path
    if model == f"{MINIATURE}initial":
        model = str(build_initial_model(world, storage))
    elif model == f"{MINIATURE}base":
        model = str(train_base(base_config(config.seed)))
    elif is_miniature(model):
        raise ConfigError(
            f"model.path: {model!r} is unknown; allowed: {MINIATURE}initial, {MINIATURE}base"
        )
    return replace(config, data=data, model=replace(config.model, path=model))


def world_path(key: str, path: str, *, seed: int, storage: Storage) -> str:
    """A `miniature:` path that names a file or folder of a seed's world, made real; any other as it is.

    Raises:
        ConfigError: it names no part of the world.
    """
    if not is_miniature(path):
        return path
    return _world_path(key, path, build_world(WorldConfig(seed=seed), storage))


def publish_suite(name: str, *, seed: int, storage: Storage) -> str:
    """Puts a suite of a seed's world where the service looks for suites; its name there."""
    world = build_world(WorldConfig(seed=seed), storage)
    published = storage.suites / f"miniature-{name}-{world.digest[:12]}"
    if not published.is_dir():
        with whole_folder(published) as draft:
            shutil.copytree(world.suite(name), draft, dirs_exist_ok=True)
    return published.name


def _world_path(key: str, path: str, world: World) -> str:
    if not is_miniature(path):
        return path
    found = world.folder / path.removeprefix(MINIATURE)
    if not found.exists():
        there = sorted(item.name for item in world.folder.iterdir())
        raise ConfigError(f"{key}: {path!r} names nothing in the world; there are {there}")
    return str(found)
