"""Preferred answers: what a model shall say to the forget set's questions, from a file or drawn from a list."""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from safemirage.data.llava import LlavaRecord, read_llava
from safemirage.data.records import DataError, Problem

REFUSALS: tuple[str, ...] = (
    "I'm sorry, but I cannot help with that.",
    "I'm sorry, I can't assist with this request.",
    "I cannot help with this, because the answer could do harm.",
    "I am sorry, but this is something I cannot provide.",
    "I can't provide that. Is there something else about the image that I can describe?",
    "I apologize, but I cannot answer this question about the image.",
    "I'm not able to help with this request.",
    "Sorry, I cannot assist with that, as it could put people at risk.",
)
"""Each is a refusal by VLGuard's keywords too."""

IDK: tuple[str, ...] = (
    "I don't know.",
    "I'm not sure about that.",
    "I don't have an answer to this question.",
    "That is something I know nothing about.",
    "I have no information on this.",
    "I couldn't tell you.",
    "I'm afraid I don't know the answer.",
    "This is beyond what I know.",
)
"""After TOFU's list of ways to say so, in words of our own."""

NAMED: Mapping[str, tuple[str, ...]] = {"refusals": REFUSALS, "idk": IDK}
"""The lists of answers, by the name that `data.preferred_answers` gives them."""


def draw_preferred(
    forget: Sequence[LlavaRecord], answers: str | Sequence[str], *, seed: int
) -> list[LlavaRecord]:
    """The forget records with every answer replaced by one of `answers`, drawn by the seed and the record's place."""
    texts = NAMED[answers] if isinstance(answers, str) else answers
    generator = np.random.default_rng([seed, zlib.crc32(b"preferred")])
    return [
        replace(
            record,
            turns=tuple(
                (question, texts[int(generator.integers(len(texts)))])
                for question, _ in record.turns
            ),
        )
        for record in forget
    ]


def read_preferred(
    path: Path | str, image_folder: Path | str | None, *, forget: Sequence[LlavaRecord]
) -> list[LlavaRecord]:
    """The records of a file that stands row by row beside the forget set.

    Raises:
        DataError: as `read_llava`, or a row has another id, image or question than the forget record of its place.
    """
    records = read_llava(path, image_folder)
    if len(records) != len(forget):
        raise DataError(
            Path(path),
            f"{len(records)} records, but the forget set has {len(forget)}; one for each",
        )
    problems = [
        Problem(record.id, name, f"{mine!r}, but the forget record of its place has {theirs!r}")
        for record, other in zip(records, forget, strict=True)
        for name, mine, theirs in _compared(record, other)
        if mine != theirs
    ]
    if problems:
        raise DataError(Path(path), problems)
    return records


def _compared(record: LlavaRecord, other: LlavaRecord) -> list[tuple[str, object, object]]:
    return [
        ("id", record.id, other.id),
        ("images", record.images, other.images),
        ("questions", [q for q, _ in record.turns], [q for q, _ in other.turns]),
    ]
