"""LLaVA conversation JSON: `[{"id", "image"?, "conversations": [{"from": "human" | "gpt", "value"}, ...]}, ...]`."""

import warnings
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safemirage.data.records import (
    DataError,
    DataWarning,
    ImageFolder,
    Problem,
    read_json_records,
    repeats,
    unique_ids,
    warn_shared_ids,
)

IMAGE_MARK = "<image>"


@dataclass(frozen=True)
class LlavaRecord:
    """A conversation about at most one image, which belongs to the first turn."""

    id: str
    """Unique within its file."""
    image: Path | None
    """Absolute if the file was read with an image folder, else relative to one."""
    turns: tuple[tuple[str, str], ...]
    """(question, answer) pairs, without the `<image>` mark."""


def read_llava(path: Path | str, image_folder: Path | str | None = None) -> list[LlavaRecord]:
    """The records of a file, in file order. With an image folder every image must lie in it.

    Ids that stand on several different records are warned about and made unique. A leading `gpt` turn and a
    trailing `human` turn are dropped, as LLaVA's own trainer does, and counted in a warning.

    Raises:
        DataError: names each unusable record and field: no id, malformed turns, no answer to learn from, an image
            that is missing or outside the folder, a record that repeats another word for word.
    """
    path = Path(path)
    folder = ImageFolder(image_folder)
    if (missing := folder.missing()) is not None:
        raise DataError(path, missing)
    items = read_json_records(path)
    names = [_name(index, item) for index, item in enumerate(items)]
    problems = [
        problem
        for name, item in zip(names, items, strict=True)
        for problem in _record_problems(name, item, folder)
    ]
    problems += repeats(names, items)
    if problems:
        raise DataError(path, problems)
    warn_shared_ids(path, names)
    _warn_dropped(path, items)
    return [
        LlavaRecord(name, folder.path(item["image"]) if "image" in item else None, _turns(item))
        for name, item in zip(unique_ids(names), items, strict=True)
    ]


def read_training_set(path: Path | str, image_folder: Path | str | None) -> list[LlavaRecord]:
    """The records of a file to train on: their images will be opened, so they need a folder to lie in.

    Raises:
        DataError: as `read_llava`, or records have images and there is no image folder.
    """
    records = read_llava(path, image_folder)
    lost = [
        record for record in records if record.image is not None and not record.image.is_absolute()
    ]
    if lost:
        problems = [
            Problem(record.id, "image", f"{str(record.image)!r} needs data.image_folder")
            for record in lost
        ]
        raise DataError(Path(path), problems)
    return records


def relative_to(record: LlavaRecord, image_folder: Path | str | None) -> LlavaRecord:
    """The record with its image relative to the folder that it was read with."""
    if record.image is None or image_folder is None:
        return record
    return replace(
        record, image=record.image.relative_to(Path(image_folder).expanduser().absolute())
    )


def to_llava(record_id: str, image: str | None, turns: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """The JSON object of one record; `image` is relative to the image folder."""
    conversations = []
    for index, (question, answer) in enumerate(turns):
        mark = f"{IMAGE_MARK}\n" if image is not None and index == 0 else ""
        conversations += [
            {"from": "human", "value": mark + question},
            {"from": "gpt", "value": answer},
        ]
    record: dict[str, Any] = {"id": record_id}
    if image is not None:
        record["image"] = image
    return record | {"conversations": conversations}


def _name(index: int, item: object) -> str:
    identifier = item.get("id") if isinstance(item, dict) else None
    return (
        str(identifier) if isinstance(identifier, str | int) and identifier != "" else f"#{index}"
    )


def _record_problems(name: str, item: object, folder: ImageFolder) -> list[Problem]:
    if not isinstance(item, dict):
        return [
            Problem(name, "(whole record)", f"is {type(item).__name__}, but must be a JSON object")
        ]
    problems = []
    if name.startswith("#") and item.get("id") != name:
        problems.append(Problem(name, "id", f"{item.get('id')!r} is not a text or a number"))
    if "image" in item and (message := folder.problem(item["image"])) is not None:
        problems.append(Problem(name, "image", message))
    return problems + _conversation_problems(name, item)


def _conversation_problems(name: str, item: dict[str, Any]) -> list[Problem]:
    turns = item.get("conversations")
    if not isinstance(turns, list) or not turns:
        return [
            Problem(name, "conversations", "must be a list of at least one question and answer")
        ]
    for index, turn in enumerate(turns):
        field = f"conversations[{index}]"
        if not isinstance(turn, dict) or turn.get("from") not in {"human", "gpt"}:
            return [Problem(name, f"{field}.from", "must be 'human' or 'gpt'")]
        if not isinstance(turn.get("value"), str):
            return [Problem(name, f"{field}.value", f"{turn.get('value')!r} is not text")]
        if index and turn["from"] == turns[index - 1]["from"]:
            return [
                Problem(name, f"{field}.from", f"{turn['from']!r} twice in a row; turns alternate")
            ]
    num_marks = sum(turn["value"].count(IMAGE_MARK) for turn in turns)
    if num_marks > ("image" in item):
        allowed = "one image" if "image" in item else "no image"
        message = f"{num_marks} {IMAGE_MARK} marks in a record with {allowed}"
        return [Problem(name, "conversations", message)]
    if not any(answer.strip() for _, answer in _turns(item)):
        return [Problem(name, "conversations", "no answer with text, so there is nothing to learn")]
    return []


def _paired(item: dict[str, Any]) -> list[dict[str, str]]:
    """The turns from the first question to the last answer."""
    turns: list[dict[str, str]] = item["conversations"]
    start = int(turns[0]["from"] == "gpt")
    end = len(turns) - int(turns[-1]["from"] == "human")
    return turns[start:end]


def _turns(item: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    texts = [turn["value"] for turn in _paired(item)]
    return tuple(
        (question.replace(IMAGE_MARK, "").strip(), answer)
        for question, answer in zip(texts[::2], texts[1::2], strict=True)
    )


def _warn_dropped(path: Path, items: list[dict[str, Any]]) -> None:
    dropped = sum(len(item["conversations"]) - len(_paired(item)) for item in items)
    if dropped:
        warnings.warn(
            f"{path}: {dropped} turn(s) dropped, because they have no partner: "
            "an answer before the first question or a question without an answer",
            DataWarning,
            stacklevel=3,
        )
