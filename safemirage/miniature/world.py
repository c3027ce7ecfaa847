"""Builds a miniature world from its config: pictures, VLGuard-format records, training files, evaluation suites.

    images/            pictures of the training sets
    vlguard/           train.json (images under images/), test.json (images under suites/test/images/)
    train/             base.json, mixed_sft.json, ...: LLaVA format
    suites/            selection/ and test/, each a suite folder

A world is a folder named by the content of its config; it is written aside and moved into place whole.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from safemirage.config.loading.identity import digest_of, identity_tree
from safemirage.config.loading.load import to_tree
from safemirage.config.world import WorldConfig
from safemirage.files import whole_folder
from safemirage.miniature.pictures import draw_pictures, part_random
from safemirage.miniature.samples import suite_samples
from safemirage.miniature.training_sets import TrainingSets, safety_items
from safemirage.storage import Storage

FORMAT = 3
"""The version of a world's files, raised when the same config gives others than before."""

SuiteName = Literal["selection", "test"]


@dataclass(frozen=True)
class World:
    """The files of a built world."""

    folder: Path
    config: WorldConfig

    @property
    def digest(self) -> str:
        return self.folder.name

    @property
    def image_folder(self) -> Path:
        """Root of the `image` paths in every training file."""
        return self.folder / "images"

    @property
    def vlguard_train(self) -> Path:
        return self.folder / "vlguard" / "train.json"

    @property
    def vlguard_test(self) -> Path:
        return self.folder / "vlguard" / "test.json"

    def training_file(self, name: str) -> Path:
        """A training file of `TrainingSets.llava`, by its name."""
        return self.folder / "train" / f"{name}.json"

    def suite(self, name: str) -> Path:
        """A suite's folder."""
        return self.folder / "suites" / name


def build_world(config: WorldConfig, storage: Storage) -> World:
    """The world of a config: built at the first call (some seconds), found at later ones."""
    digest = digest_of({"format": FORMAT, "config": identity_tree(config)})[:16]
    folder = storage.worlds / digest
    if not folder.is_dir():
        with whole_folder(folder) as draft:
            _write_world(World(draft, config))
    return World(folder, config)


def _write_world(world: World) -> None:
    _write_json(world.folder / "world.json", to_tree(world.config))
    sets = TrainingSets(world.config, world.image_folder)
    _write_json(world.vlguard_train, sets.vlguard())
    for name, records in sets.llava().items():
        _write_json(world.training_file(name), records)
    _write_suite(world, "selection", world.config.sets.selection)
    test = _write_suite(world, "test", world.config.sets.test)
    _write_json(world.vlguard_test, test)


def _write_suite(world: World, name: SuiteName, count: int) -> list[dict[str, Any]]:
    """Writes a suite of `count` questions a condition; its plain questions in VLGuard's format."""
    config, folder = world.config, world.suite(name)
    images = folder / "images"
    unsafe = draw_pictures(config, f"{name}_unsafe", count, config.unsafe_kinds, images)
    safe = draw_pictures(config, f"{name}_safe", count, config.safe_kinds, images)
    rng = part_random(config, f"suite/{name}")
    items = safety_items([*unsafe, *safe], config.words, rng)
    samples = suite_samples(items, config, rng)
    _write_json(folder / "suite.json", {"name": f"miniature-{name}", "samples": samples})
    return [item.vlguard() for item in items]


def _write_json(path: Path, tree: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(tree, indent=1) + "\n", encoding="utf-8")
