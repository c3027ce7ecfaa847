"""What the loaders of public data sets share: fields and images of a file's records, and all that is wrong with them."""

import csv
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safemirage.data.records import DataError, ImageFolder, Problem, read_json, read_text
from safemirage.evaluation.types import ImageFile, ImageInput, Sample
from safemirage.models.images import image_problem


class SetFile:
    """A file of a data set while it is read. Problems are collected; `finish` raises them together.

    A field that is wrong reads as the empty text, an image as None, so that reading continues to the next problem.
    """

    def __init__(self, path: str, images: str | None = None) -> None:
        """Raises DataError where the image folder is not there."""
        self.path = Path(path).expanduser()
        self._problems: list[Problem] = []
        self._folder = ImageFolder(images)
        if (missing := self._folder.missing()) is not None:
            raise DataError(self.path, missing)
        self._images: dict[str, ImageInput] = {}

    def wrong(self, record: str, field: str, message: str) -> None:
        self._problems.append(Problem(record, field, message))

    def text(self, name: str, record: Mapping[str, Any], field: str) -> str:
        """A field that must hold text that is not blank."""
        value = record.get(field)
        if isinstance(value, str) and value.strip():
            return value
        self.wrong(name, field, f"{value!r} is not text, or is blank")
        return ""

    def image(self, name: str, path: str, field: str = "image") -> ImageInput | None:
        """The image at `path` below the folder, which must be one that can be read; its bytes stay on the disk."""
        if path not in self._images:
            if (message := self._folder.problem(path)) is not None:
                self.wrong(name, field, message)
                return None
            self._images[path] = ImageFile(self._folder.path(path))
        found = self._images[path]
        self._look_at(name, field, found.data, shown=repr(path))
        return found

    def embedded_image(self, name: str, field: str, data: object) -> ImageInput | None:
        """An image that stands in the record itself, as encoded bytes."""
        if not isinstance(data, bytes):
            self.wrong(name, field, f"{type(data).__name__}, but the bytes of an image are needed")
            return None
        self._look_at(name, field, data, shown=f"an image of {len(data)} bytes")
        return ImageInput(data)

    def _look_at(self, name: str, field: str, data: bytes, *, shown: str) -> None:
        if (problem := image_problem(data)) is not None:
            self.wrong(name, field, f"{shown} {problem}")

    def check(self) -> None:
        """Raises DataError where something was wrong."""
        if self._problems:
            raise DataError(self.path, self._problems)

    def finish(self, samples: Sequence[Sample]) -> list[Sample]:
        """The samples.

        Raises:
            DataError: something is wrong; two samples share an id; there is no sample.
        """
        seen = Counter(sample.sample_id for sample in samples)
        for name, times in seen.items():
            if times > 1:
                self.wrong(name, "id", f"stands {times} times; every question needs its own")
        self.check()
        if not samples:
            raise DataError(self.path, "holds no question that was asked for")
        return list(samples)


def read_csv(path: Path, columns: Sequence[str]) -> list[dict[str, str | None]]:
    """The records of a CSV file with a heading.

    Raises:
        DataError: it cannot be read, is not UTF-8, or lacks a column.
    """
    reader = csv.DictReader(io.StringIO(read_text(path), newline=""))
    try:
        names, records = reader.fieldnames or (), list(reader)
    except csv.Error as error:
        raise DataError(
            path, f"is not CSV: {error}, at line {reader.line_num}; a quote may not be closed"
        ) from error
    if missing := [column for column in columns if column not in names]:
        raise DataError(path, f"has no column {missing}; its columns are {names}")
    return records


def read_json_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file, with at least one entry. Raises DataError where it holds something else."""
    tree = read_json(path)
    if not isinstance(tree, dict) or not tree:
        raise DataError(path, f"holds {type(tree).__name__}, but an object with entries is needed")
    return tree


def records_in(file: SetFile, items: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The named items that are JSON objects; each of the others is a problem."""
    for name, item in items.items():
        if not isinstance(item, dict):
            file.wrong(name, "(whole record)", f"is {type(item).__name__}, but must be an object")
    return {name: item for name, item in items.items() if isinstance(item, dict)}
