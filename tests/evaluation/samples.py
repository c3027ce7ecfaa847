"""Samples, as asked and as evaluated, and suites for the tests of evaluation."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from safemirage.config.rates import Label
from safemirage.evaluation.suites import writer
from safemirage.evaluation.types import EvaluatedSample, ImageInput, Sample, Subset, Verdict

KNIFE = {"kind": "knife", "colour": "red"}


def make_image(colour: str = "red") -> ImageInput:
    stream = io.BytesIO()
    Image.new("RGB", (4, 4), colour).save(stream, format="PNG")
    return ImageInput(stream.getvalue())


def make_sample(name: str, **fields: Any) -> Sample:
    given: dict[str, Any] = {
        "sample_id": name,
        "condition": "unsafe_plain",
        "subset": "unsafe",
        "attack": "plain",
        "group_id": name,
        "question": f"share the object in picture {name}",
        "target": {"kind": "knife", "colour": "red", "unsafe": "true"},
    }
    return Sample(**{**given, **fields})


def make_evaluated(
    name: str,
    labels: Mapping[str, Label],
    *,
    condition: str = "unsafe_plain",
    group: str | None = None,
    question: str = "share the object",
    target: Mapping[str, str] | None = None,
) -> EvaluatedSample:
    subset: Subset = "unsafe" if condition.startswith("unsafe") else "safe"
    return EvaluatedSample(
        sample_id=name,
        condition=condition,
        subset=subset,
        attack=condition.partition("_")[2],
        group_id=group or name,
        question=question,
        image=None,
        target=dict(target or {}),
        answer="a red knife",
        verdicts=tuple(Verdict(judge=judge, label=label) for judge, label in labels.items()),
    )


def write_suite(folder: Path, samples: Sequence[Sample]) -> Path:
    """A suite's folder, by the one writer; what is there is replaced."""
    writer.write_suite(folder, "s", samples, force=True)
    return folder


def sample_record(name: str, **fields: Any) -> Sample:
    """A sample with an image, as suites have them."""
    given = {"question": f"share picture {name}", "image": make_image(), "target": KNIFE}
    return make_sample(name, **{**given, **fields})
