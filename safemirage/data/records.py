"""What all readers share: problems that are collected and raised together, image paths, unique sample ids."""

import json
import os
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

_SHOWN = 50


@dataclass(frozen=True)
class Problem:
    """One thing wrong with one record."""

    record: str
    """Its id, or `#7` (counted from 0) where it has none."""
    field: str
    message: str

    def __str__(self) -> str:
        return f"record {self.record}, {self.field}: {self.message}"


class DataError(ValueError):
    """A data file that cannot be used; holds every problem that was found in it."""

    def __init__(self, path: Path, problems: Sequence[Problem] | str) -> None:
        self.path = path
        self.problems = () if isinstance(problems, str) else tuple(problems)
        super().__init__(f"{path}: {problems}" if isinstance(problems, str) else self._text())

    def _text(self) -> str:
        lines = [f"{self.path}: {len(self.problems)} problem(s)"]
        lines += [f"  {problem}" for problem in self.problems[:_SHOWN]]
        if len(self.problems) > _SHOWN:
            lines.append(f"  ... and {len(self.problems) - _SHOWN} more")
        return "\n".join(lines)


class DataWarning(UserWarning):
    """Something in a data file that is odd but usable."""


def read_json_records(path: Path) -> list[Any]:
    """The items of a JSON file that holds one list.

    Raises:
        DataError: the file cannot be read, is not UTF-8 JSON, or holds no list or an empty one.
    """
    try:
        items = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(path, f"cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(path, f"is not UTF-8 text: {error.reason} at byte {error.start}") from error
    except json.JSONDecodeError as error:
        raise DataError(
            path, f"is not JSON: {error.msg} at line {error.lineno}, column {error.colno}"
        ) from error
    if not isinstance(items, list) or not items:
        raise DataError(
            path, f"holds {type(items).__name__}, but a list of at least one record is needed"
        )
    return items


class ImageFolder:
    """Resolves the `image` fields of records; with a folder, also on disk.

    A file counts by where it really lies: a link that leads out of the folder is refused like `../x.png`.
    """

    def __init__(self, root: Path | str | None) -> None:
        self.root = None if root is None else Path(root).expanduser().absolute()
        self._real_root = None if self.root is None else os.path.realpath(self.root)

    def missing(self) -> str | None:
        """What is wrong with the folder itself, or None."""
        if self.root is not None and not self.root.is_dir():
            return f"image folder {self.root}: no such folder"
        return None

    def problem(self, image: object) -> str | None:
        """What is wrong with an `image` field, or None."""
        if not isinstance(image, str) or not image or "\0" in image:
            return f"{image!r} is not a path; give one relative to the image folder"
        relative = PurePosixPath(image)
        if relative.is_absolute() or ".." in relative.parts:
            return f"{image!r} leaves the image folder; give a path below it"
        if self.root is None or self._real_root is None:
            return None
        real = os.path.realpath(self.root / relative)
        if os.path.commonpath([real, self._real_root]) != self._real_root:
            return f"{image!r} is a link that leaves the image folder {self.root}"
        if not os.path.isfile(real):
            return f"{image!r} is not a file in {self.root}"
        return None

    def path(self, image: str) -> Path:
        """Where an image that has no problem lies; without a folder, its relative path."""
        return Path(image) if self.root is None else self.root / image


def repeats(names: Sequence[str], records: Sequence[Any]) -> list[Problem]:
    """A problem for every record that equals an earlier one word for word."""
    first: dict[str, int] = {}
    problems = []
    for index, record in enumerate(records):
        content = json.dumps(record, sort_keys=True, ensure_ascii=False)
        earlier = first.setdefault(content, index)
        if earlier != index:
            problems.append(
                Problem(
                    names[index], "(whole record)", f"#{index} repeats #{earlier} word for word"
                )
            )
    return problems


def unique_ids(ids: Sequence[str]) -> list[str]:
    """The ids, the second and later uses of one numbered `id#2`, `id#3`, ... in file order."""
    taken = set(ids)
    seen: Counter[str] = Counter()
    result = []
    for item in ids:
        seen[item] += 1
        name = item
        if seen[item] > 1:
            number = seen[item]
            while (name := f"{item}#{number}") in taken:
                number += 1
            taken.add(name)
        result.append(name)
    return result


def shared_ids(ids: Iterable[str]) -> list[str]:
    """The ids that stand on more than one record, in order of first use."""
    return [item for item, count in Counter(ids).items() if count > 1]


def warn_shared_ids(path: Path, ids: Sequence[str]) -> None:
    """One warning with a count where ids are shared by different records."""
    shared = shared_ids(ids)
    if shared:
        count = Counter(ids)
        num_records = sum(count[item] for item in shared)
        warnings.warn(
            f"{path}: {len(shared)} id(s) stand on more than one record, {num_records} records in all "
            f"({_some(shared)}); their later samples are numbered id#2, id#3, ...",
            DataWarning,
            stacklevel=3,
        )


def warn_repeats(path: Path, problems: Sequence[Problem]) -> None:
    """One warning with a count where records that repeat another were let through."""
    if problems:
        warnings.warn(
            f"{path}: {len(problems)} record(s) repeat another word for word "
            f"({_some([problem.record for problem in problems])})",
            DataWarning,
            stacklevel=3,
        )


def warn_blank_answers(path: Path, ids: Sequence[str]) -> None:
    """One warning with a count where answers are blank."""
    if ids:
        warnings.warn(
            f"{path}: {len(ids)} answer(s) are blank ({_some(ids)})", DataWarning, stacklevel=3
        )


def _some(ids: Sequence[str]) -> str:
    return ", ".join(ids[:3]) + (", ..." if len(ids) > 3 else "")
