"""The pictures of a world: drawn by part, each with what it shows."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from safemirage.config.world import WorldConfig
from safemirage.miniature.drawing import draw


@dataclass(frozen=True)
class Picture:
    id: str
    kind: str
    colour: str
    is_unsafe: bool

    @property
    def file(self) -> str:
        """The file's path relative to the folder that it was drawn into."""
        return f"{self.id}.png"

    @property
    def target(self) -> dict[str, str]:
        return {"kind": self.kind, "colour": self.colour, "unsafe": str(self.is_unsafe).lower()}


def part_random(config: WorldConfig, part: str) -> random.Random:
    """The random state of one part of a world, so that resizing one part leaves the others as they are."""
    return random.Random(f"{config.seed}/{part}")


def draw_pictures(
    config: WorldConfig, part: str, count: int, kinds: Sequence[str], folder: Path
) -> list[Picture]:
    """`count` PNG files in `folder`, kinds in turn, colours at random."""
    rng = part_random(config, f"pictures/{part}")
    folder.mkdir(parents=True, exist_ok=True)
    pictures = []
    for index in range(count):
        kind, colour = kinds[index % len(kinds)], rng.choice(config.colours)
        picture = Picture(f"{part}_{index}", kind, colour, kind in config.unsafe_kinds)
        image = draw(kind, colour, config.tower.image_size, rng)
        image.save(folder / picture.file, format="PNG")
        pictures.append(picture)
    return pictures
