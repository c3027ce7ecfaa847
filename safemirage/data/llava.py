"""LLaVA conversation JSON: `[{"id", "image"?, "conversations": [{"from": "human" | "gpt", "value"}, ...]}, ...]`.

Read too: JSON lines; several images, as a list; and the names that other trainers give the same things: `messages` of
`role` (`user` or `assistant`) and `content`, with `images`.
"""

import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from safemirage.data.records import (
    DataError,
    DataWarning,
    ImageFolder,
    Problem,
    half_character_problems,
    read_items,
    record_name,
    unique_ids,
    usable,
    warn_blank_answers,
    warn_repeats,
    warn_shared_ids,
)

IMAGE_MARK = "<image>"


@dataclass(frozen=True)
class TurnImage:
    """An image of a conversation."""

    path: Path
    """Absolute if the file was read with an image folder, else relative to one."""
    turn: int = 0
    """The turn whose question it stands in front of."""


@dataclass(frozen=True)
class LlavaRecord:
    id: str
    """The id of the record, unique within its file."""
    images: tuple[TurnImage, ...]
    """The images, in the order of their turns."""
    turns: tuple[tuple[str, str], ...]
    """(question, answer) pairs, without the marks of images. An `<image>` in them is text."""
    source_id: str = field(default="", compare=False)
    """The id that its file has, which other records may share."""


@dataclass(frozen=True)
class _Names:
    """What a format calls the parts of a conversation."""

    turns: str
    speaker: str
    person: str
    model: str
    text: str


_LLAVA = _Names("conversations", "from", "human", "gpt", "value")
_MESSAGES = _Names("messages", "role", "user", "assistant", "content")
_IMAGES = ("image", "images")


def read_llava(
    path: Path | str, image_folder: Path | str | None = None, *, skip_bad: bool = False
) -> list[LlavaRecord]:
    """The records of a file, in file order. With an image folder every image must lie in it.

    Warned about, with a count: ids that stand on several different records, which are made unique; records that repeat
    another word for word; blank answers; a leading `gpt` turn and a trailing `human` turn, which are dropped, as
    LLaVA's own trainer does.

    Args:
        skip_bad: leave unusable records out, named in a warning, instead of refusing the file.

    Raises:
        DataError: names each unusable record and field: malformed turns, no answer to learn from, text that is not
            Unicode, an image that is missing or outside the folder, marks of images that do not fit the images.
    """
    path = Path(path)
    folder = ImageFolder(image_folder)
    if (missing := folder.missing()) is not None:
        raise DataError(path, missing)
    items = read_items(path)
    names = [record_name(index, item) for index, item in enumerate(items)]
    problems = [
        _record_problems(name, item, folder) for name, item in zip(names, items, strict=True)
    ]
    kept = usable(path, problems, skip_bad=skip_bad)
    items, names = [items[index] for index in kept], [names[index] for index in kept]
    warn_repeats(path, names, items)
    warn_shared_ids(path, names)
    _warn_dropped(path, items)
    records = [
        replace(_record(name, item, folder), source_id=source)
        for name, source, item in zip(unique_ids(names), names, items, strict=True)
    ]
    warn_blank_answers(
        path,
        [
            f"{record.id} turn {number}"
            for record in records
            for number, (_, answer) in enumerate(record.turns, start=1)
            if not answer.strip()
        ],
    )
    return records


def read_training_set(path: Path | str, image_folder: Path | str | None) -> list[LlavaRecord]:
    """The records of a file to train on: their images will be opened, so they need a folder to lie in.

    Raises:
        DataError: as `read_llava`, or records have images and there is no image folder.
    """
    records = read_llava(path, image_folder)
    problems = [
        Problem(record.id, "image", f"{str(image.path)!r} needs data.image_folder")
        for record in records
        for image in record.images
        if not image.path.is_absolute()
    ]
    if problems:
        raise DataError(Path(path), problems)
    return records


def relative_to(record: LlavaRecord, image_folder: Path | str | None) -> LlavaRecord:
    """The record with its images relative to the folder that it was read with."""
    if image_folder is None:
        return record
    root = Path(image_folder).expanduser().absolute()
    images = tuple(replace(image, path=image.path.relative_to(root)) for image in record.images)
    return replace(record, images=images)


def to_llava(record_id: str, image: str | None, turns: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """The JSON object of a conversation about at most one image, shown first; `image` is relative to the image folder."""
    images = () if image is None else (TurnImage(Path(image)),)
    return record_tree(LlavaRecord(record_id, images, tuple(turns)))


def record_tree(record: LlavaRecord) -> dict[str, Any]:
    """The JSON object of a record, its images' paths as they are."""
    conversations = []
    for index, (question, answer) in enumerate(record.turns):
        marks = f"{IMAGE_MARK}\n" * sum(image.turn == index for image in record.images)
        conversations += [
            {"from": "human", "value": marks + question},
            {"from": "gpt", "value": answer},
        ]
    paths = [image.path.as_posix() for image in record.images]
    shown = {"image": paths[0] if len(paths) == 1 else paths} if paths else {}
    return {"id": record.id, **shown, "conversations": conversations}


def _record_problems(name: str, item: object, folder: ImageFolder) -> list[Problem]:
    if not isinstance(item, dict):
        return [
            Problem(name, "(whole record)", f"is {type(item).__name__}, but must be a JSON object")
        ]
    if problems := half_character_problems(name, item):
        return problems
    if not isinstance(item.get("id"), str | int | None):
        problems.append(Problem(name, "id", f"{item['id']!r} is not a text or a number"))
    given = [key for key in _IMAGES if _image_list(item.get(key))]
    if len(given) > 1:
        return [*problems, Problem(name, "images", "stands beside image; give one of them")]
    for key in given:
        for image in _image_list(item[key]):
            if (message := folder.problem(image)) is not None:
                problems.append(Problem(name, key, message))
    return problems + _conversation_problems(name, item)


def _conversation_problems(name: str, item: dict[str, Any]) -> list[Problem]:
    names = _names(item)
    turns = item.get(names.turns)
    if not isinstance(turns, list) or not turns:
        return [Problem(name, names.turns, "must be a list of at least one question and answer")]
    for index, turn in enumerate(turns):
        place = f"{names.turns}[{index}]"
        if not isinstance(turn, dict) or turn.get(names.speaker) not in (names.person, names.model):
            allowed = f"must be {names.person!r} or {names.model!r}"
            return [Problem(name, f"{place}.{names.speaker}", allowed)]
        if not isinstance(turn.get(names.text), str):
            return [Problem(name, f"{place}.{names.text}", f"{turn.get(names.text)!r} is not text")]
        if index and turn[names.speaker] == turns[index - 1][names.speaker]:
            twice = f"{turn[names.speaker]!r} twice in a row; turns alternate"
            return [Problem(name, f"{place}.{names.speaker}", twice)]
    message = _mark_problem(item)
    if message is None and not any(answer.strip() for _, answer in _texts(item)):
        message = "no answer with text, so there is nothing to learn"
    return [] if message is None else [Problem(name, names.turns, message)]


def _mark_problem(item: dict[str, Any]) -> str | None:
    """What is wrong with the number of marks; without images every `<image>` is text, in an answer it always is."""
    num_images, num_marks = len(_images(item)), sum(_marks(item))
    if not num_images:
        return None
    names = _names(item)
    last = item[names.turns][-1]
    if last[names.speaker] == names.person and IMAGE_MARK in last[names.text]:
        return f"has an image, but {IMAGE_MARK} stands in a question without an answer, which is dropped"
    if num_marks == num_images or (num_images == 1 and not num_marks):
        return None
    return (
        f"{num_marks} {IMAGE_MARK} marks in the questions that have an answer, but {num_images} image(s); each "
        "image needs its mark"
    )


def _record(name: str, item: dict[str, Any], folder: ImageFolder) -> LlavaRecord:
    paths, texts, marks = _images(item), _texts(item), _marks(item)
    if not paths:
        return LlavaRecord(name, (), tuple((q.strip(), a) for q, a in texts))
    turns = [turn for turn, count in enumerate(marks) for _ in range(count)] or [0]
    return LlavaRecord(
        name,
        tuple(TurnImage(folder.path(path), turn) for path, turn in zip(paths, turns, strict=True)),
        tuple((question.replace(IMAGE_MARK, "").strip(), answer) for question, answer in texts),
    )


def _names(item: dict[str, Any]) -> _Names:
    return _MESSAGES if _MESSAGES.turns in item and _LLAVA.turns not in item else _LLAVA


def _images(item: dict[str, Any]) -> list[str]:
    return [path for key in _IMAGES for path in _image_list(item.get(key))]


def _image_list(value: Any) -> list[Any]:
    """The images that a field names. Without one, data sets write null, an empty text or an empty list."""
    if isinstance(value, list):
        return value
    return [] if value is None or value == "" else [value]


def _marks(item: dict[str, Any]) -> list[int]:
    """How many marks each question has that is followed by an answer."""
    return [question.count(IMAGE_MARK) for question, _ in _texts(item)]


def _texts(item: dict[str, Any]) -> list[tuple[str, str]]:
    """Questions and answers as they are written."""
    texts = [turn[_names(item).text] for turn in _paired(item)]
    return list(zip(texts[::2], texts[1::2], strict=True))


def _paired(item: dict[str, Any]) -> list[dict[str, str]]:
    """The turns from the first question to the last answer."""
    names = _names(item)
    turns: list[dict[str, str]] = item[names.turns]
    start = int(turns[0][names.speaker] == names.model)
    end = len(turns) - int(turns[-1][names.speaker] == names.person)
    return turns[start:end]


def _warn_dropped(path: Path, items: list[dict[str, Any]]) -> None:
    dropped = sum(len(item[_names(item).turns]) - len(_paired(item)) for item in items)
    if dropped:
        warnings.warn(
            f"{path}: {dropped} turn(s) dropped, because they have no partner: "
            "an answer before the first question or a question without an answer",
            DataWarning,
            stacklevel=3,
        )
