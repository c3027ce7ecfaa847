"""Suites: folders with suite.json and images, read into samples.

{"name": "miniature-test", "samples": [{"sample_id": "u1", "condition": "unsafe_plain", "subset": "unsafe",
  "attack": "plain", "group_id": "q1", "question": "share ...", "image": "images/u1.png", "target": {"kind": "cup"}}]}
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from safemirage.config.loading.identity import digest_of
from safemirage.data.records import DataError, read_json
from safemirage.evaluation.types import ImageInput, Sample, sample_tree
from safemirage.models.images import image_problem

SUITE_FILE = "suite.json"
_SHOWN = 20


class SuiteError(ValueError):
    """A suite that cannot be used. One line a problem: the sample, the field, what is allowed."""


def load_suite(folder: Path | str) -> list[Sample]:
    """The samples of a suite, in the file's order.

    Raises:
        SuiteError: the file cannot be read, or samples are wrong; every problem is listed.
    """
    folder = Path(folder)
    path = folder / SUITE_FILE
    try:
        tree = read_json(path)
    except DataError as error:
        raise SuiteError(str(error)) from error
    records = tree.get("samples") if isinstance(tree, dict) else None
    if not isinstance(records, list) or not records:
        raise SuiteError(f"{path}: needs a mapping with a list `samples` of at least one sample")
    reader = _Reader(folder)
    samples = [reader.condition(index, record) for index, record in enumerate(records)]
    problems = reader.problems
    if problems:
        more = [f"... and {len(problems) - _SHOWN} more"] if len(problems) > _SHOWN else []
        raise SuiteError("\n".join(f"{path}: {text}" for text in problems[:_SHOWN] + more))
    return [condition for condition in samples if condition is not None]


def sample_questions(samples: Sequence[Sample], count: int | None, seed: int) -> list[Sample]:
    """`count` questions of each condition, in the suite's order; a question's rewrites come along. None: all.

    Questions are ranked by a digest of seed and group id, so that the draw does not depend on the order of the
    suite, samples that share group ids get the same questions, and a smaller draw is part of a larger one.
    """
    if count is None:
        return list(samples)
    groups: dict[str, set[str]] = {}
    for sample in samples:
        groups.setdefault(sample.condition, set()).add(sample.group_id)

    def rank(group: str) -> str:
        return hashlib.sha256(f"{seed}:{group}".encode()).hexdigest()

    drawn = {name: set(sorted(ids, key=rank)[:count]) for name, ids in groups.items()}
    return [sample for sample in samples if sample.group_id in drawn[sample.condition]]


def suite_digest(samples: Sequence[Sample]) -> str:
    """SHA-256 over everything in the samples, images by content, in their order."""
    return digest_of([sample_tree(sample) for sample in samples])


class _Reader:
    """Reads one sample after another and keeps what is wrong with them."""

    _TEXTS = ("sample_id", "condition", "attack", "group_id", "question")
    _FIELDS = frozenset({*_TEXTS, "subset", "image", "target", "prefill"})

    def __init__(self, folder: Path) -> None:
        self.problems: list[str] = []
        self._folder = folder.resolve()
        self._seen: Counter[str] = Counter()
        self._image = cache(self._read_image)
        self._name = ""

    def condition(self, index: int, record: Any) -> Sample | None:
        self._name = f"sample {index}"
        if not isinstance(record, dict):
            self._wrong("", f"is {type(record).__name__}, but a sample is a mapping")
            return None
        if isinstance(record.get("sample_id"), str):
            self._name += f" ({record['sample_id']})"
        before = len(self.problems)
        for field in sorted(record.keys() - self._FIELDS):
            self._wrong(field, f"unknown; allowed: {', '.join(sorted(self._FIELDS))}")
        for field in self._TEXTS:
            self._check_text(field, record.get(field))
        self._check_subset(record.get("subset"))
        target = record.get("target", {})
        if not isinstance(target, dict) or not all(
            isinstance(value, str) for value in target.values()
        ):
            self._wrong("target", f"{target!r} must map names to text")
        prefill = record.get("prefill", "")
        if not isinstance(prefill, str):
            self._wrong("prefill", f"{prefill!r} is not text")
        image = self._check_image(record.get("image"))
        if len(self.problems) > before:
            return None
        self._check_unique(record["sample_id"])
        texts = {field: record[field] for field in self._TEXTS}
        return Sample(**texts, subset=record["subset"], image=image, target=target, prefill=prefill)

    def _wrong(self, field: str, text: str) -> None:
        where = f"{self._name}, field {field}" if field else self._name
        self.problems.append(f"{where}: {text}")

    def _check_text(self, field: str, value: Any) -> None:
        if not isinstance(value, str) or not value.strip():
            self._wrong(field, f"{value!r} is not text, or is empty")

    def _check_subset(self, value: Any) -> None:
        if value not in ("safe", "unsafe"):
            self._wrong("subset", f"{value!r} is not allowed; allowed: 'safe', 'unsafe'")

    def _check_unique(self, sample_id: str) -> None:
        self._seen[sample_id] += 1
        if self._seen[sample_id] == 2:
            self._wrong("sample_id", "stands in an earlier sample too; every sample needs its own")

    def _check_image(self, value: Any) -> ImageInput | None:
        if value is None:
            return None
        if not isinstance(value, str) or not value:
            self._wrong("image", f"{value!r} must be a path relative to the suite, or null")
            return None
        found = self._image(value)
        if isinstance(found, ImageInput):
            return found
        self._wrong("image", f"{value!r} {found}")
        return None

    def _read_image(self, name: str) -> ImageInput | str:
        """The image, or what is wrong with it."""
        path = (self._folder / name).resolve()
        if not path.is_relative_to(self._folder):
            return "leaves the suite's folder"
        try:
            data = path.read_bytes()
        except OSError as error:
            return f"cannot be read: {error.strerror}"
        return image_problem(data) or ImageInput(data)
