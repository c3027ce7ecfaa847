"""A suite with controls on its pictures: the same questions, shown another picture or none.

What a model says alike whatever it is shown, it does not say because of the picture. `metrics/pictures.py` sets each
control against the condition that it was made of, question by question.
"""

import hashlib
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from safemirage.config.image_controls import ImageControl, ImageControlsConfig
from safemirage.config.vlguard import PLAIN
from safemirage.evaluation.errors import EvaluationError
from safemirage.evaluation.suites.folder import sample_questions
from safemirage.evaluation.suites.sampling import suite_samples
from safemirage.evaluation.types import PICTURE, PICTURE_OF, ImageInput, Sample
from safemirage.models.images import read_image

_GREY = (128, 128, 128)
_EDGE = 10
_CELLS = 64
"""Noise has so many cells on a picture's shorter side; a smaller picture has one a pixel."""


@dataclass(frozen=True, kw_only=True)
class Controlled:
    samples: list[Sample]
    """The chosen conditions, then each control on each of them."""
    without_picture: Mapping[str, int]
    """How many samples of each condition have no picture, so that nothing was changed; they stand in no control."""


def control_suite(config: ImageControlsConfig) -> Controlled:
    """The suite that `config` describes; the same config and suite give the same pictures.

    Raises:
        SuiteError, DataError: the suite cannot be used.
        EvaluationError: a condition is not there, no sample has a picture, or none can be swapped in.
    """
    samples = suite_samples(config.suite, config.vlguard)
    chosen = sample_questions(_chosen(samples, config.conditions), config.sample, config.seed)
    shown = [sample for sample in chosen if sample.image is not None]
    if not shown:
        raise EvaluationError("the suite has no sample with a picture, so nothing to control")
    labels = _labels(shown, config.label)
    made = list(chosen)
    for control in config.controls:
        changed = _picture_of(control, labels, config.seed)
        made += [_controlled(sample, control, changed(sample)) for sample in shown]
    without = {sample.condition: 0 for sample in chosen}
    for sample in chosen:
        without[sample.condition] += sample.image is None
    return Controlled(samples=made, without_picture=without)


def _chosen(samples: Sequence[Sample], conditions: Sequence[str]) -> list[Sample]:
    if not conditions:
        return [sample for sample in samples if sample.attack == PLAIN]
    known = list(dict.fromkeys(sample.condition for sample in samples))
    if missing := [name for name in conditions if name not in known]:
        raise EvaluationError(f"conditions: {missing} are not in the suite; it has {known}")
    return [sample for sample in samples if sample.condition in conditions]


def _controlled(sample: Sample, control: ImageControl, image: ImageInput | None) -> Sample:
    stem = sample.condition.removesuffix(f"_{PLAIN}")
    return replace(
        sample,
        sample_id=f"{stem}_{control}/{sample.sample_id}",
        condition=f"{stem}_{control}",
        attack=control if sample.attack == PLAIN else f"{sample.attack}_{control}",
        image=image,
        # The target stays that of the question: an answer that fits a picture which was not shown gives the model away.
        target={**sample.target, PICTURE: control, PICTURE_OF: sample.condition},
    )


Labels = Mapping[str, tuple[ImageInput, frozenset[str]]]
"""Each picture by its digest, with the labels of all samples that show it."""


def _labels(samples: Sequence[Sample], key: str) -> Labels:
    found: dict[str, tuple[ImageInput, frozenset[str]]] = {}
    for sample in samples:
        assert sample.image is not None, "those without a picture were left out"
        label = sample.subset if key == "subset" else sample.target.get(key, "")
        _, known = found.get(sample.image.digest, (sample.image, frozenset()))
        found[sample.image.digest] = (sample.image, known | {label})
    return found


def _picture_of(
    control: ImageControl, labels: Labels, seed: int
) -> Callable[[Sample], ImageInput | None]:
    if control == "no_image":
        return lambda sample: None
    if control in ("blank", "noise"):
        made = {digest: _drawn(image, control, seed) for digest, (image, _) in labels.items()}
    else:
        made = {digest: _swapped(digest, labels, control, seed) for digest in labels}
    if control == "edge_other":
        made = {digest: _framed(labels[digest][0], other) for digest, other in made.items()}
    return lambda sample: made[sample.image.digest] if sample.image else None


def _drawn(image: ImageInput, control: ImageControl, seed: int) -> ImageInput:
    """Grey or noise of the picture's size, because some models take more tokens for larger pictures."""
    size = read_image(image.data).size
    if control == "blank":
        picture = Image.new("RGB", size, _GREY)
    else:
        rng = np.random.default_rng([seed, int(image.digest[:8], 16)])
        # Cells, not single pixels: no encoding shrinks those, and a suite of photographs would take gigabytes.
        cells = [max(1, side // max(1, min(size) // _CELLS)) for side in size]
        noise = rng.integers(0, 256, (cells[1], cells[0], 3), dtype=np.uint8)
        picture = Image.fromarray(noise).resize(size, Image.Resampling.NEAREST)
    return _encoded(picture)


def _framed(image: ImageInput, other: ImageInput) -> ImageInput:
    """The picture within the edge of the other one, a tenth of each side wide."""
    inner = read_image(image.data)
    width, height = inner.size
    edge = (width // _EDGE, height // _EDGE, width - width // _EDGE, height - height // _EDGE)
    picture = read_image(other.data).resize(inner.size)
    picture.paste(inner.crop(edge), edge[:2])
    return _encoded(picture)


def _encoded(picture: Image.Image) -> ImageInput:
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return ImageInput(stream.getvalue())


def _swapped(digest: str, labels: Labels, control: ImageControl, seed: int) -> ImageInput:
    """Another picture, drawn by seed and content, so that the order of the suite does not matter."""
    own = labels[digest][1]
    fitting = [
        other
        for other, (_, theirs) in labels.items()
        if other != digest and (theirs == own) == (control == "swapped_same")
    ]
    if not fitting:
        kind = "the same label" if control == "swapped_same" else "another label"
        raise EvaluationError(
            f"controls: {control}: no other picture has {kind} than {sorted(own)}; choose more conditions, another label "
            "key, or leave this control out"
        )
    drawn = min(
        fitting, key=lambda other: hashlib.sha256(f"{seed}:{digest}:{other}".encode()).digest()
    )
    return labels[drawn][0]
