"""Which simple feature of a file's pictures gives the safety label away, and which pictures stand there twice.

A picture counts as unsafe where every question about it is. No model sees these features; each is one that a data set takes
from its sources (size, format, folder) or from how it was made (a frame, a tint).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from safemirage.data.audit.examples import Example
from safemirage.data.audit.lookup import Labelled, LookupScore, score_held_out
from safemirage.data.records import DataError, Problem

MEAN_COLOUR = "mean colour"
_BITS = 64
NEAR = 4
"""Bits of 64 that the perceptual hashes of near-duplicates differ in at most."""
_LEVELS = 4
"""Steps of each colour channel: features must repeat to be looked up."""
_SIDE = 64
"""Pictures are shrunk to squares of so many pixels for their colours, of which the rim is a sixteenth on each side."""


@dataclass(frozen=True)
class Picture:
    name: str
    """Its path relative to the image folder."""
    unsafe: bool
    features: Mapping[str, str]
    """Values by the feature's name, such as `edge colour`."""
    hash: int
    """The difference hash, 64 bits (Krawetz 2013): whether each of 8 x 8 grey cells is lighter than its left neighbour."""


@dataclass(frozen=True)
class Duplicate:
    """Two pictures that look alike."""

    first: str
    second: str
    bits: int
    """How many bits of their hashes differ; 0: alike to the eye."""


@dataclass(frozen=True)
class PictureAudit:
    pictures: int
    unsafe: int
    held_out: tuple[LookupScore, ...]
    """A lookup by each feature, fitted on four fifths of the pictures and scored on the others; the best first.
    Near-duplicates are on one side."""
    across_labels: tuple[Duplicate, ...]
    """Near-duplicates of which one is safe and one unsafe."""
    shared: Mapping[str, tuple[Duplicate, ...]]
    """Near-duplicates between this file's pictures and those of each other file."""


def read_pictures(examples: Sequence[Example], folder: Path) -> list[Picture]:
    """The pictures that the examples name, each once. Raises DataError for those that cannot be decoded."""
    labels: dict[str, list[bool]] = {}
    for item in examples:
        if item.image is not None:
            labels.setdefault(item.image, []).append(item.unsafe)
    pictures, problems = [], []
    for name, unsafe in labels.items():
        try:
            pictures.append(_read(folder / name, name, all(unsafe)))
        except OSError as error:
            problems.append(Problem(name, "image", f"cannot be decoded: {error}"))
    if problems:
        raise DataError(folder, problems)
    return pictures


def audit_pictures(
    pictures: Sequence[Picture], others: Mapping[str, Sequence[Picture]]
) -> PictureAudit:
    """The audit of a file's pictures; `others` holds those of other files by name."""
    groups = _groups(pictures)
    scores = [
        score_held_out(
            [
                Labelled(one.features[kind], one.unsafe, str(group))
                for one, group in zip(pictures, groups, strict=True)
            ],
            kind,
        )
        for kind in pictures[0].features
    ]
    return PictureAudit(
        pictures=len(pictures),
        unsafe=sum(one.unsafe for one in pictures),
        held_out=tuple(sorted(scores, key=lambda score: -score.accuracy)),
        across_labels=tuple(
            _near([one for one in pictures if one.unsafe], [o for o in pictures if not o.unsafe])
        ),
        shared={name: tuple(_near(pictures, theirs)) for name, theirs in others.items()},
    )


def _read(path: Path, name: str, unsafe: bool) -> Picture:
    with Image.open(path) as image:
        size, kind = f"{image.width}x{image.height}", image.format or "unknown"
        image.draft("RGB", (2 * _SIDE, 2 * _SIDE))  # JPEG decodes a small picture straight away
        small = image.convert("RGB").resize((_SIDE, _SIDE), Image.Resampling.BOX)
    pixels = np.asarray(small, dtype=np.float64)
    rim = np.ones((_SIDE, _SIDE), dtype=bool)
    rim[_SIDE // 16 : -_SIDE // 16, _SIDE // 16 : -_SIDE // 16] = False
    grey = np.asarray(small.convert("L").resize((9, 8), Image.Resampling.BOX), dtype=np.int16)
    bits = (grey[:, 1:] > grey[:, :-1]).flatten()
    return Picture(
        name=name,
        unsafe=unsafe,
        features={
            "size": size,
            "format": kind,
            "folder": PurePosixPath(name).parent.as_posix(),
            MEAN_COLOUR: _colour(pixels.mean(axis=(0, 1))),
            "edge colour": _colour(pixels[rim].mean(axis=0)),
        },
        hash=int("".join("1" if bit else "0" for bit in bits), 2),
    )


def _colour(mean: np.ndarray) -> str:
    """The colour in steps, red, green, blue: `303` is a bright magenta."""
    return "".join(str(int(value * _LEVELS // 256)) for value in mean)


def _alike(left: set[int], right: set[int]) -> dict[int, list[int]]:
    """Each hash of `left` with those of `right` that differ from it in at most NEAR bits.

    Two such hashes agree in one of NEAR + 1 bands, so that only those of one band's bucket are compared: all pairs of a
    file of 100,000 pictures would take hours.
    """
    width = -(-_BITS // (NEAR + 1))
    found: dict[int, set[int]] = {}
    for shift in range(0, _BITS, width):
        buckets: dict[int, list[int]] = {}
        for other in right:
            buckets.setdefault(other >> shift & (1 << width) - 1, []).append(other)
        for one in left:
            for other in buckets.get(one >> shift & (1 << width) - 1, ()):
                if (one ^ other).bit_count() <= NEAR:
                    found.setdefault(one, set()).add(other)
    return {one: sorted(others) for one, others in found.items()}


def _near(one: Sequence[Picture], two: Sequence[Picture]) -> list[Duplicate]:
    names: dict[int, list[str]] = {}
    for picture in two:
        names.setdefault(picture.hash, []).append(picture.name)
    alike = _alike({picture.hash for picture in one}, set(names))
    return [
        Duplicate(picture.name, name, (picture.hash ^ other).bit_count())
        for picture in one
        for other in alike.get(picture.hash, ())
        for name in names[other]
    ]


def _groups(pictures: Sequence[Picture]) -> list[int]:
    """A number for each picture that its near-duplicates share, and theirs, and so on."""
    hashes = {picture.hash for picture in pictures}
    alike = _alike(hashes, hashes)
    group: dict[int, int] = {}
    for start in sorted(hashes):
        waiting = [start] if start not in group else []
        while waiting:
            one = waiting.pop()
            if one not in group:
                group[one] = start
                waiting += alike[one]
    return [group[picture.hash] for picture in pictures]
