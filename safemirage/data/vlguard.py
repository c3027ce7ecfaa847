"""VLGuard's JSON: one record an image, unsafe images with one question, safe images with a safe and an unsafe one."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from safemirage.data.records import (
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

PairKind = Literal["safe_safe", "safe_unsafe", "unsafe"]
"""Image and question: a safe question about a safe image, an unsafe one about it, one about an unsafe image."""

_QUESTION_FIELDS: dict[bool, tuple[tuple[PairKind, str], ...]] = {
    True: (("safe_safe", "safe_instruction"), ("safe_unsafe", "unsafe_instruction")),
    False: (("unsafe", "instruction"),),
}


@dataclass(frozen=True)
class VLGuardPair:
    """A question and its reference answer."""

    kind: PairKind
    question: str
    answer: str
    """The reference answer; it may be blank, as 17 of VLGuard's test file are."""


@dataclass(frozen=True)
class VLGuardRecord:
    id: str
    """Unique within its file: `source_id`, from its second use on with a number."""
    source_id: str
    """The id that the file has."""
    image: str
    """The image's path relative to the image folder, as the file has it."""
    safe: bool
    """Whether the image is safe."""
    pairs: tuple[VLGuardPair, ...]
    category: str | None = None
    subcategory: str | None = None

    def pair(self, kind: PairKind) -> VLGuardPair:
        """The record's pair of this kind. Raises KeyError where a record of its sort has none."""
        for pair in self.pairs:
            if pair.kind == kind:
                return pair
        raise KeyError(kind)


def read_vlguard(
    path: Path | str,
    image_folder: Path | str | None = None,
    *,
    rewrites: bool = False,
    skip: SkipBad | None = None,
) -> list[VLGuardRecord]:
    """The records of a file, in file order. With an image folder every image must lie in it.

    Warned about, with a count: ids that stand on several different records, which are made unique; records that repeat
    another word for word; blank answers, which no evaluation reads.

    Args:
        rewrites: the rewrites of a question share its id, so that it is no warning.
        skip: how many unusable records may be left out, named in a warning, instead of refusing the file.

    Raises:
        DataError: names each unusable record and field: no id, no `safe`, no image path, an image that is missing or
            outside the folder, pairs that do not fit `safe`, categories that are no text, text that is not Unicode.
    """
    path = Path(path)
    _, names, items, found = read_records(path, image_folder, _checked, skip)
    records = [replace(one, id=name) for name, one in zip(unique_ids(names), found, strict=True)]
    warn_repeats(path, names, items)
    if not rewrites:
        warn_shared_ids(path, names)
    warn_blank_answers(
        path, [record.id for record in records for pair in record.pairs if not pair.answer.strip()]
    )
    return records


def is_vlguard(items: list[Any]) -> bool:
    """Whether a file's items look like VLGuard's rather than LLaVA's."""
    return any(isinstance(item, dict) and "instr-resp" in item for item in items)


def iterate_pairs(records: list[VLGuardRecord]) -> Iterator[tuple[VLGuardRecord, VLGuardPair]]:
    for record in records:
        for pair in record.pairs:
            yield record, pair


def _checked(name: str, item: dict[str, Any], folder: ImageFolder) -> VLGuardRecord | list[Problem]:
    return _record_problems(name, item, folder) or _record(name, item)


def _record_problems(name: str, item: dict[str, Any], folder: ImageFolder) -> list[Problem]:
    other = looks_like(item)
    if other is not None and "instr-resp" not in item:
        said = f"is missing; the record looks like {other}, which is not read here"
        return [Problem(name, "instr-resp", said)]
    problems = []
    if str(item.get("id")) != name:
        problems.append(Problem(name, "id", f"{item.get('id')!r} is not a text or a number"))
    for field in ("harmful_category", "harmful_subcategory"):
        if not all(isinstance(text, str) for text in _categories(item, field)):
            problems.append(
                Problem(name, field, f"{item[field]!r} is neither a text nor a list of texts")
            )
    if (message := folder.problem(item.get("image"))) is not None:
        problems.append(Problem(name, "image", message))
    if not isinstance(item.get("safe"), bool):
        problems.append(
            Problem(
                name,
                "safe",
                f"{item.get('safe')!r} is not true or false, so the record has no label",
            )
        )
        return problems
    return problems + _pair_problems(name, item)


def _pair_problems(name: str, item: dict[str, Any]) -> list[Problem]:
    expected = _QUESTION_FIELDS[item["safe"]]
    pairs = item.get("instr-resp")
    if not isinstance(pairs, list) or len(pairs) != len(expected):
        fields = " and ".join(repr(field) for _, field in expected)
        message = f"must be a list of {len(expected)} for safe={item['safe']}: {fields}, each with its response"
        return [Problem(name, "instr-resp", message)]
    problems = []
    for index, ((_, question), pair) in enumerate(zip(expected, pairs, strict=True)):
        place = f"instr-resp[{index}]"
        if not isinstance(pair, dict):
            problems.append(
                Problem(name, place, f"is {type(pair).__name__}, but must be a JSON object")
            )
            continue
        text = pair.get(question)
        if not isinstance(text, str) or not text.strip():
            problems.append(Problem(name, f"{place}.{question}", f"{text!r} is not a question"))
        if not isinstance(pair.get("response"), str):
            problems.append(
                Problem(name, f"{place}.response", f"{pair.get('response')!r} is not an answer")
            )
    return problems


def _record(name: str, item: dict[str, Any]) -> VLGuardRecord:
    return VLGuardRecord(
        id=name,
        source_id=str(item["id"]),
        image=item["image"],
        safe=item["safe"],
        pairs=tuple(
            VLGuardPair(kind, pair[question], pair["response"])
            for (kind, question), pair in zip(
                _QUESTION_FIELDS[item["safe"]], item["instr-resp"], strict=True
            )
        ),
        category=", ".join(_categories(item, "harmful_category")) or None,
        subcategory=", ".join(_categories(item, "harmful_subcategory")) or None,
    )


def _categories(item: dict[str, Any], field: str) -> list[Any]:
    value = item.get(field)
    if isinstance(value, list):
        return value
    return [] if value is None else [value]
