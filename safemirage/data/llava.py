"""LLaVA conversation JSON: `[{"id", "image"?, "conversations": [{"from": "human" | "gpt", "value"}, ...]}, ...]`.

Read too: JSON lines; several images, as a list; and the names that other trainers give the same things: `messages` of
`role` (`user` or `assistant`) and `content`, which may be a list of parts (text, image), with `images`.
"""

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from safemirage.data.records import (
    DataError,
    DataWarning,
    ImageFolder,
    Problem,
    SkipBad,
    looks_like,
    read_records,
    unique_ids,
    warn_blank_answers,
    warn_repeats,
    warn_shared_ids,
)

IMAGE_MARK = "<image>"
_PERSONS, _MODELS = ("human", "user"), ("gpt", "assistant", "model")
_IMAGES = ("image", "images")


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
class _Conversation:
    """A record as its file has it, whatever names the format uses."""

    images: Sequence[str]
    turns: Sequence[tuple[bool, str]]
    """Whether the model speaks, and the text with its marks."""

    @property
    def paired(self) -> Sequence[tuple[bool, str]]:
        """The turns from the first question to the last answer."""
        return self.turns[int(self.turns[0][0]) : len(self.turns) - int(not self.turns[-1][0])]

    @property
    def texts(self) -> list[tuple[str, str]]:
        """Questions and answers as they are written."""
        texts = [text for _, text in self.paired]
        return list(zip(texts[::2], texts[1::2], strict=True))

    @property
    def marks(self) -> list[int]:
        """How many marks each question has that is followed by an answer."""
        return [question.count(IMAGE_MARK) for question, _ in self.texts]


def read_llava(
    path: Path | str, image_folder: Path | str | None = None, *, skip: SkipBad | None = None
) -> list[LlavaRecord]:
    """The records of a file, in file order. With an image folder every image must lie in it.

    Warned about, with a count: ids that stand on several different records, which are made unique; records that repeat
    another word for word; blank answers; a leading `gpt` turn and a trailing `human` turn, which are dropped, as
    LLaVA's own trainer does.

    Args:
        skip: how many unusable records may be left out, named in a warning, instead of refusing the file.

    Raises:
        DataError: names each unusable record and field: malformed turns, no answer to learn from, text that is not
            Unicode, an image that is missing or outside the folder, marks of images that do not fit the images.
    """
    path = Path(path)
    folder, names, items, found = read_records(path, image_folder, _conversation, skip)
    warn_repeats(path, names, items)
    warn_shared_ids(path, names)
    dropped = sum(len(one.turns) - len(one.paired) for one in found)
    if dropped:
        warnings.warn(
            f"{path}: {dropped} turn(s) dropped, because they have no partner: "
            "an answer before the first question or a question without an answer",
            DataWarning,
            stacklevel=2,
        )
    records = [
        replace(_record(name, one, folder), source_id=source)
        for name, source, one in zip(unique_ids(names), names, found, strict=True)
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


def _conversation(
    name: str, item: dict[str, Any], folder: ImageFolder
) -> _Conversation | list[Problem]:
    problems = []
    if not isinstance(item.get("id"), str | int | None):
        problems.append(Problem(name, "id", f"{item['id']!r} is not a text or a number"))
    found = _turns(name, item)
    if isinstance(found, Problem):
        return [*problems, found]
    turns, shown = found
    given = {key: images for key in _IMAGES if (images := _image_list(item.get(key)))}
    if shown:
        given["content"] = shown
    if len(given) > 1:
        one, two, *_ = given
        return [*problems, Problem(name, two, f"stands beside {one}; give one of them")]
    images = [image for listed in given.values() for image in listed]
    for key, listed in given.items():
        problems += [
            Problem(name, key, message)
            for image in listed
            if (message := folder.problem(image)) is not None
        ]
    conversation = _Conversation(images, turns)
    message = _mark_problem(conversation)
    if message is None and not any(answer.strip() for _, answer in conversation.texts):
        message = "no answer with text, so there is nothing to learn"
    if message is not None:
        problems.append(Problem(name, _turns_key(item), message))
    return problems or conversation


def _turns_key(item: dict[str, Any]) -> str:
    return "messages" if "messages" in item and "conversations" not in item else "conversations"


def _turns(
    name: str, item: dict[str, Any]
) -> tuple[list[tuple[bool, str]], list[object]] | Problem:
    """The turns, and images that stand in their content; or the first problem."""
    key = _turns_key(item)
    listed = item.get(key)
    if key not in item and (other := looks_like(item)) is not None:
        return Problem(
            name, key, f"is missing; the record looks like {other}, which is not read here"
        )
    if not isinstance(listed, list) or not listed:
        return Problem(name, key, "must be a list of at least one question and answer")
    turns: list[tuple[bool, str]] = []
    shown: list[object] = []
    for index, turn in enumerate(listed):
        # Names are looked up turn by turn, because some sets have `conversations` of `role` and `content`.
        fields = turn if isinstance(turn, dict) else {}
        speaker = next((one for one in ("from", "role") if one in fields), "from")
        text = next((one for one in ("value", "content") if one in fields), "value")
        who, place = fields.get(speaker), f"{key}[{index}]"
        if who not in (*_PERSONS, *_MODELS):
            allowed = f"must be one of {', '.join(map(repr, (*_PERSONS, *_MODELS)))}"
            if who == "system":
                allowed += "; a system prompt is no part of a record: take it out"
            return Problem(name, f"{place}.{speaker}", allowed)
        said = _joined(fields.get(text), shown)
        if said is None:
            return Problem(name, f"{place}.{text}", f"{fields.get(text)!r} is not text")
        if turns and turns[-1][0] == (who in _MODELS):
            return Problem(name, f"{place}.{speaker}", f"{who!r} twice in a row; turns alternate")
        turns.append((who in _MODELS, said))
    return turns, shown


def _joined(content: object, shown: list[object]) -> str | None:
    """The text of a turn; parts are joined, an image part leaving a mark and, where it names one, its path in `shown`."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not content:
        return None
    texts = []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text" and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif kind in ("image", "image_url"):
            texts.append(IMAGE_MARK)
            named = part.get(kind)
            named = named.get("url") if isinstance(named, dict) else named
            shown += [] if named is None else [named]
        else:
            return None
    return "\n".join(texts)


def _mark_problem(found: _Conversation) -> str | None:
    """What is wrong with the number of marks; without images every `<image>` is text, in an answer it always is."""
    num_images, num_marks = len(found.images), sum(found.marks)
    if not num_images:
        return None
    is_model, last = found.turns[-1]
    if not is_model and IMAGE_MARK in last:
        return f"has an image, but {IMAGE_MARK} stands in a question without an answer, which is dropped"
    if num_marks == num_images or (num_images == 1 and not num_marks):
        return None
    return (
        f"{num_marks} {IMAGE_MARK} marks in the questions that have an answer, but {num_images} image(s); each "
        "image needs its mark"
    )


def _record(name: str, found: _Conversation, folder: ImageFolder) -> LlavaRecord:
    if not found.images:
        return LlavaRecord(name, (), tuple((q.strip(), a) for q, a in found.texts))
    turns = [turn for turn, count in enumerate(found.marks) for _ in range(count)] or [0]
    return LlavaRecord(
        name,
        tuple(
            TurnImage(folder.path(path), turn)
            for path, turn in zip(found.images, turns, strict=True)
        ),
        tuple(
            (question.replace(IMAGE_MARK, "").strip(), answer) for question, answer in found.texts
        ),
    )


def _image_list(value: Any) -> list[Any]:
    """The images that a field names. Without one, data sets write null, an empty text or an empty list."""
    if isinstance(value, list):
        return value
    return [] if value is None or value == "" else [value]
