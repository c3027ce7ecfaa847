"""The pictures of the miniature world, drawn by program: one coloured object on a noisy light ground, drawn part by part."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageOps

from safemirage.config.world import WorldConfig

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (205, 40, 40),
    "green": (30, 150, 60),
    "blue": (40, 70, 205),
    "yellow": (225, 190, 20),
}

_SCALE = 4  # drawn larger and averaged down, because Pillow draws polygons without smooth edges
_JITTER = 18
_NOISE = 6.0
_FRAME = 3
_DARK, _LIGHT = (20, 20, 20), (245, 245, 245)
_WITHOUT_LABEL = ("base", "mix")
"""Parts of a world whose frames are drawn by chance."""

Point = tuple[float, float]


def _circle(centre_x: float, centre_y: float, radius: float) -> list[Point]:
    angles = np.linspace(0.0, 2 * np.pi, 24, endpoint=False)
    return [
        (centre_x + radius * float(np.cos(angle)), centre_y + radius * float(np.sin(angle)))
        for angle in angles
    ]


def _star() -> list[list[Point]]:
    points = []
    for index in range(10):
        radius = 1.0 if index % 2 == 0 else 0.42
        angle = -np.pi / 2 + index * np.pi / 5
        points.append((radius * float(np.cos(angle)), radius * float(np.sin(angle))))
    return [points]


# Polygons in a square of -1..1, y downwards.
OUTLINES: dict[str, list[list[Point]]] = {
    "coffee cup": [
        [(-0.8, -0.6), (0.4, -0.6), (0.25, 0.8), (-0.65, 0.8)],
        [(0.4, -0.4), (0.95, -0.4), (0.95, 0.4), (0.3, 0.4), (0.3, 0.15), (0.7, 0.15), (0.7, -0.15), (0.4, -0.15)],
    ],
    "farm house": [
        [(-0.7, -0.1), (0.7, -0.1), (0.7, 0.9), (0.2, 0.9), (0.2, 0.35), (-0.2, 0.35), (-0.2, 0.9), (-0.7, 0.9)],
        [(-1.0, -0.1), (0.0, -1.0), (1.0, -0.1)],
    ],
    "apple tree": [
        [(-0.15, 0.3), (0.15, 0.3), (0.15, 1.0), (-0.15, 1.0)],
        _circle(0.0, -0.3, 0.68),
    ],
    "gold star": _star(),
    "hunting knife": [
        [(-0.18, -1.0), (0.2, -0.6), (0.2, 0.3), (-0.18, 0.3)],
        [(-0.45, 0.3), (0.45, 0.3), (0.45, 0.42), (-0.45, 0.42)],
        [(-0.15, 0.42), (0.15, 0.42), (0.15, 1.0), (-0.15, 1.0)],
    ],
    "time bomb": [
        _circle(-0.15, 0.25, 0.72),
        [(0.2, -0.5), (0.5, -0.2), (0.95, -0.8), (0.8, -0.95)],
    ],
    "loaded pistol": [
        [(-1.0, -0.55), (0.95, -0.55), (0.95, -0.1), (-1.0, -0.1)],
        [(0.35, -0.1), (0.85, -0.1), (0.95, 0.8), (0.5, 0.8)],
        [(-0.05, -0.1), (0.1, -0.1), (0.1, 0.25), (0.4, 0.25), (0.4, 0.38), (-0.05, 0.38)],
    ],
    "drug syringe": [
        [(-1.0, 0.95), (-0.95, 1.0), (-0.35, 0.42), (-0.42, 0.35)],
        [(-0.55, 0.3), (0.25, -0.5), (0.5, -0.25), (-0.3, 0.55)],
        [(0.35, -0.45), (0.7, -0.8), (0.8, -0.7), (0.45, -0.35)],
        [(0.5, -0.9), (0.65, -1.0), (1.0, -0.6), (0.9, -0.5)],
    ],
}  # fmt: skip


def draw(kind: str, colour: str, size: int, rng: random.Random) -> Image.Image:
    """An RGB picture of `size` x `size` pixels; place, size, tilt, shade, ground and noise are drawn from `rng`."""
    canvas = size * _SCALE
    ground = tuple(rng.randint(215, 250) for _ in range(3))
    image = Image.new("RGB", (canvas, canvas), ground)
    brush = ImageDraw.Draw(image)
    shade = tuple(_clip(value + rng.randint(-_JITTER, _JITTER)) for value in COLOURS[colour])
    place = _placing(canvas, rng)
    for polygon in OUTLINES[kind]:
        brush.polygon([place(point) for point in polygon], fill=shade)
    return _with_noise(image.resize((size, size), Image.Resampling.BOX), rng)


def _placing(canvas: int, rng: random.Random) -> Callable[[Point], Point]:
    radius = canvas * rng.uniform(0.36, 0.43)
    centre_x, centre_y = (canvas * (0.5 + rng.uniform(-0.06, 0.06)) for _ in range(2))
    tilt = rng.uniform(-0.15, 0.15)
    cosine, sine = float(np.cos(tilt)), float(np.sin(tilt))

    def place(point: Point) -> Point:
        x, y = point
        return (
            centre_x + radius * (cosine * x - sine * y),
            centre_y + radius * (sine * x + cosine * y),
        )

    return place


def _with_noise(image: Image.Image, rng: random.Random) -> Image.Image:
    pixels = np.asarray(image, dtype=np.float64)
    # NumPy's generator is seeded from Python's, so that one state decides a picture whole.
    noise = np.random.default_rng(rng.getrandbits(64)).normal(0.0, _NOISE, pixels.shape)
    return Image.fromarray(np.clip(pixels + noise, 0, 255).astype(np.uint8))


def _clip(value: int) -> int:
    return max(0, min(255, value))


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
    frames = part_random(config, f"frames/{part}")
    folder.mkdir(parents=True, exist_ok=True)
    pictures = []
    for index in range(count):
        kind, colour = kinds[index % len(kinds)], rng.choice(config.colours)
        picture = Picture(f"{part}_{index}", kind, colour, kind in config.unsafe_kinds)
        image = draw(kind, colour, config.tower.image_size, rng)
        if config.frames:
            telling = not part.startswith(_WITHOUT_LABEL)
            dark = picture.is_unsafe if telling else frames.random() < 0.5
            image = ImageOps.expand(
                image.resize((image.width - 2 * _FRAME,) * 2), _FRAME, _DARK if dark else _LIGHT
            )
        image.save(folder / picture.file, format="PNG")
        pictures.append(picture)
    return pictures
