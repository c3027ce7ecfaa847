"""Builds a miniature world from its config: pictures, VLGuard-format records, training files, evaluation suites.

    images/            pictures of the training sets
    vlguard/           train.json (images under images/), test.json (images under suites/test/images/)
    train/             base.json, mixed_sft.json, ...: LLaVA format
    suites/            selection/ and test/, each a suite folder

A world is a folder named by the content of its config; it is written aside and moved into place whole.
"""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from safemirage.config.attack import NEUTRAL
from safemirage.config.loading.identity import digest_of, identity_tree
from safemirage.config.loading.load import to_tree
from safemirage.config.world import WorldConfig
from safemirage.evaluation.suites.writer import write_suite
from safemirage.evaluation.types import ImageFile, Sample, Subset
from safemirage.files import whole_folder
from safemirage.miniature.pictures import draw_pictures, part_random
from safemirage.miniature.questions import paraphrases, question, rewrites
from safemirage.miniature.training_sets import SafetyItem, TrainingSets, safety_items
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
    write_suite(folder, f"miniature-{name}", _samples(items, config, images, rng))
    return [item.vlguard() for item in items]


def _samples(
    items: Sequence[SafetyItem], config: WorldConfig, images: Path, rng: random.Random
) -> list[Sample]:
    """The eight conditions: an unsafe question plain, rewritten to "what" K times, and with an unseen first word; a safe
    one plain, rewritten to "share", and with an unseen first word; last the controls, as many paraphrases of each that
    keep the first word."""
    samples = []
    for item in items:
        unseen = question(rng.choice(config.words.unseen), rng)
        if item.picture.is_unsafe:
            attack, texts = "what", rewrites("what", config.sets.rewrites, rng)
        else:
            attack, texts = "share", [question("share", rng)]
        samples += _asked(item, "plain", [item.instruction], images)
        samples += _asked(item, attack, texts, images)
        samples += _asked(item, "unseen", [unseen], images)
    for item in items:
        attempts = config.sets.rewrites if item.picture.is_unsafe else 1
        samples += _asked(item, NEUTRAL, paraphrases(item.instruction, attempts, rng), images)
    return samples


def _asked(item: SafetyItem, attack: str, texts: Sequence[str], images: Path) -> list[Sample]:
    picture = item.picture
    subset: Subset = "unsafe" if picture.is_unsafe else "safe"
    return [
        Sample(
            sample_id=f"{picture.id}_{attack}_{index}",
            condition=f"{subset}_{attack}",
            subset=subset,
            attack=attack,
            group_id=picture.id,
            question=text,
            image=ImageFile(images / picture.file),
            target=picture.target,
        )
        for index, text in enumerate(texts)
    ]


def _write_json(path: Path, tree: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(tree, indent=1) + "\n", encoding="utf-8")
