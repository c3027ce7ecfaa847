"""What all readers share: problems that are collected and raised together, image paths, unique sample ids."""

import json
import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from safemirage.text.characters import half_character

_SHOWN, _LONGEST = 50, 60
_JSON_LINES = (".jsonl", ".ndjson")
_FORMATS = {
    ("instr-resp",): "VLGuard's format (`safemirage prepare` and `audit` read it)",
    ("conversations",): "LLaVA's format (conversations)",
    ("messages",): "chat messages (role, content)",
    ("instruction", "output"): "Alpaca's format (instruction, output)",
    ("chosen", "rejected"): "pairs of preferences (chosen, rejected)",
    ("question", "answer"): "pairs of question and answer",
    ("prompt", "completion"): "prompts and completions",
    ("prompt", "response"): "prompts and responses",
    ("sample_id", "condition"): "samples of a suite",
}
"""Keys -> the format that has them; the first that fits."""
_CONTAINERS = {
    b"PAR1": "Parquet",
    b"ARROW1": "Arrow",
    b"PK\x03\x04": "a ZIP archive",
    b"\x1f\x8b": "compressed by gzip",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}
"""How files start that hold records in another way."""
T = TypeVar("T")
PairsHook = Callable[[list[tuple[str, Any]]], Any]


@dataclass(frozen=True)
class Problem:
    """One thing wrong with one record."""

    record: str
    """The record's id, or `#7` (counted from 0) where it has none."""
    field: str
    message: str

    def __str__(self) -> str:
        return f"record {self.record}, {self.field}: {self.message}"


class DataError(ValueError):
    """A data file that cannot be used; holds every problem that was found in it."""

    def __init__(self, path: Path, problems: Sequence[Problem] | str, *, note: str = "") -> None:
        self.path = path
        self.problems = () if isinstance(problems, str) else tuple(problems)
        super().__init__(f"{path}: {problems}" if isinstance(problems, str) else self._text(note))

    def _text(self, note: str) -> str:
        lines = [f"{self.path}: {len(self.problems)} problem(s){note}"]
        lines += [f"  {problem}" for problem in self.problems[:_SHOWN]]
        if len(self.problems) > _SHOWN:
            lines.append(f"  ... and {len(self.problems) - _SHOWN} more")
        return "\n".join(lines)


class DataWarning(UserWarning):
    """Something in a data file that is odd but usable."""


def read_text(path: Path) -> str:
    """The text of a file, without a byte order mark.

    Raises:
        DataError: the file cannot be read, or is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(path, f"cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        start = error.object[:8]
        for mark, name in _CONTAINERS.items():
            if start.startswith(mark):
                said = (
                    f"is {name}, which is not read here; write its records as JSON lines in UTF-8"
                )
                raise DataError(path, said) from error
        raise DataError(path, f"is not UTF-8 text: {error.reason} at byte {error.start}") from error


def read_json(path: Path, *, pairs_hook: PairsHook | None = None) -> Any:
    """What a JSON file holds.

    Raises:
        DataError: as `read_text`; it is not JSON; a text in it has half of a character.
    """
    tree = _parse(path, read_text(path), pairs_hook=pairs_hook)
    _check_characters(path, tree.items() if isinstance(tree, dict) else [("(whole file)", tree)])
    return tree


def read_json_records(path: Path) -> list[Any]:
    """Reads like `read_items`, and checks that no text in the items has half of a character. Raises DataError naming
    those that have."""
    items = read_items(path)
    _check_characters(path, [(record_name(index, item), item) for index, item in enumerate(items)])
    return items


def read_items(path: Path) -> list[Any]:
    """The items of a JSON file that holds one list, or of JSON lines.

    Raises:
        DataError: the file cannot be read, is not UTF-8 JSON, or holds no list or an empty one.
    """
    text = read_text(path)
    # Not by `splitlines`: JSON's texts may hold the other ends of lines that Unicode knows.
    lines = [(n, line) for n, line in enumerate(text.split("\n"), start=1) if line.strip()]
    if lines and (path.suffix in _JSON_LINES or (len(lines) > 1 and _is_object(lines[0][1]))):
        return _parse_lines(path, lines)
    if path.suffix in (".csv", ".tsv"):
        raise DataError(path, "is a table of text, which is not read here; write it as JSON lines")
    items = _parse(path, text)
    if isinstance(items, dict):
        items = _listed(items)
    if not isinstance(items, list) or not items:
        raise DataError(
            path,
            f"holds {type(items).__name__}, but a list of at least one record is needed, or one record a line",
        )
    return items


def _listed(tree: dict[str, Any]) -> object:
    """The records of an object: itself where it is one, or its only list, as in {"data": [...]}; else the object."""
    if looks_like(tree) is not None:
        return [tree]
    lists = [value for value in tree.values() if isinstance(value, list)]
    return lists[0] if len(lists) == 1 else tree


def half_character_problems(name: str, item: object) -> list[Problem]:
    """A problem for every text in a record that has half of a character (`\\ud83d` in JSON)."""
    return [
        Problem(
            name,
            field or "(whole record)",
            f"has half of a character at place {place}; write it whole",
        )
        for field, text in _texts_in(item, "")
        if (place := half_character(text)) is not None
    ]


def _check_characters(path: Path, items: Iterable[tuple[str, object]]) -> None:
    problems = [problem for name, item in items for problem in half_character_problems(name, item)]
    if problems:
        raise DataError(path, problems)


def _texts_in(item: object, field: str) -> Iterator[tuple[str, str]]:
    """(field, text) of everything in an item, keys included."""
    if isinstance(item, str):
        yield field, item
    elif isinstance(item, dict):
        for key, value in item.items():
            yield f"{field} (key)", key
            yield from _texts_in(value, f"{field}.{key}" if field else key)
    elif isinstance(item, list):
        for index, value in enumerate(item):
            yield from _texts_in(value, f"{field}[{index}]")


def record_name(index: int, item: object) -> str:
    """A record's id as text; `#7` (counted from 0) where it has none."""
    identifier = item.get("id") if isinstance(item, dict) else None
    # A number is an id; true and false are none.
    if isinstance(identifier, bool) or not isinstance(identifier, str | int) or identifier == "":
        return f"#{index}"
    return str(identifier)


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _parse(path: Path, text: str, *, pairs_hook: PairsHook | None = None) -> Any:
    try:
        return json.loads(text, object_pairs_hook=pairs_hook)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise DataError(path, f"is not JSON: {error.msg} at {where}") from error
    except (ValueError, RecursionError) as error:  # numbers too long, lists too deep
        raise DataError(path, f"is not JSON that can be read: {error}") from error


def _parse_lines(path: Path, lines: Iterable[tuple[int, str]]) -> list[Any]:
    items, problems = [], []
    for number, line in lines:
        try:
            items.append(json.loads(line))
        except (ValueError, RecursionError) as error:
            problems.append(Problem(f"line {number}", "(whole record)", f"is not JSON: {error}"))
    if problems:
        raise DataError(path, problems)
    return items


@dataclass
class SkipBad:
    """How many unusable records of each file may be left out, and which were."""

    most: int = 0
    left_out: dict[str, list[str]] = field(default_factory=dict)
    """File -> each record that was left out, with what is wrong with it."""


def read_records(
    path: Path,
    image_folder: Path | str | None,
    read: Callable[[str, dict[str, Any], "ImageFolder"], T | list[Problem]],
    skip: SkipBad | None,
) -> tuple["ImageFolder", list[str], list[Any], list[T]]:
    """The image folder, and of each usable record its name, its item of the file, and what `read` makes of it.

    Raises:
        DataError: the folder is not there, the file cannot be read, or more records are unusable than `skip` allows.
    """
    folder = ImageFolder(image_folder)
    if (missing := folder.missing()) is not None:
        raise DataError(path, missing)
    names, kept, records = list[str](), list[Any](), list[T]()
    problems: list[Problem] = []
    items = read_items(path)
    for index, item in enumerate(items):
        name = record_name(index, item)
        found = _whole(name, item) or read(name, item, folder)
        if isinstance(found, list):
            problems += found
        else:
            names.append(name)
            kept.append(item)
            records.append(found)
    if problems:
        _leave_out(path, problems, len(items) - len(kept), len(items), skip)
    return folder, names, kept, records


def _whole(name: str, item: object) -> list[Problem]:
    """What makes a record unreadable, whatever its format."""
    if isinstance(item, dict):
        return half_character_problems(name, item)
    kind = type(item).__name__
    return [Problem(name, "(whole record)", f"is {kind}, but must be a JSON object")]


def _leave_out(
    path: Path, problems: Sequence[Problem], bad: int, total: int, skip: SkipBad | None
) -> None:
    """Notes and warns which records are left out. Raises DataError where so many may not be."""
    if skip is None or bad > skip.most or bad == total:
        allowed = (
            "" if skip is None else f" in {bad} of {total} records; skip_bad allows {skip.most}"
        )
        raise DataError(path, problems, note=allowed)
    skip.left_out[str(path)] = [str(problem) for problem in problems]
    listed = "".join(f"\n  {problem}" for problem in problems)
    warnings.warn(f"{path}: {bad} of {total} records left out:{listed}", DataWarning, stacklevel=4)


def looks_like(item: dict[str, Any]) -> str | None:
    """The format that a record's keys are those of, in words; None where none is known."""
    for keys, name in _FORMATS.items():
        if item.keys() >= set(keys):
            return name
    return None


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
        if "://" in image or image.startswith("data:"):
            shown = image if len(image) <= _LONGEST else f"{image[:_LONGEST]}..."
            return f"{shown!r} is a URL; save it as a file below the image folder, and name that"
        relative = PurePosixPath(image)
        if relative.is_absolute() or ".." in relative.parts:
            return f"{image!r} leaves the image folder; give a path below it"
        if self.root is None or self._real_root is None:
            return None
        # By its real place: a link inside the folder would otherwise read any file of the machine into a training set.
        real = os.path.realpath(self.root / relative)
        if os.path.commonpath([real, self._real_root]) != self._real_root:
            return f"{image!r} is a link that leaves the image folder {self.root}"
        if not os.path.isfile(real):
            return f"{image!r} is not a file in {self.root}"
        return None

    def path(self, image: str) -> Path:
        """The path of an image that has no problem; without a folder, its relative path."""
        return Path(image) if self.root is None else self.root / image


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
            # A file may hold the very id that a repeated one would get.
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


def warn_repeats(path: Path, names: Sequence[str], records: Sequence[Any]) -> None:
    """One warning with a count where records repeat an earlier one word for word."""
    seen: set[str] = set()
    repeated = []
    for name, record in zip(names, records, strict=True):
        content = json.dumps(record, sort_keys=True, ensure_ascii=False)
        if content in seen:
            repeated.append(name)
        seen.add(content)
    if repeated:
        warnings.warn(
            f"{path}: {len(repeated)} record(s) repeat another word for word ({_some(repeated)})",
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
