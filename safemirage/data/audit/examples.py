"""Questions with a safety label, from VLGuard's fields or from the refusals of a LLaVA file; what `audit` counts."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from safemirage.data.audit.lookup import Labelled
from safemirage.data.llava import LlavaRecord, read_llava, relative_to
from safemirage.data.records import SkipBad, read_items
from safemirage.data.vlguard import VLGuardRecord, is_vlguard, iterate_pairs, read_vlguard
from safemirage.text.first_word import opening
from safemirage.text.refusal_keywords import is_refusal


@dataclass(frozen=True)
class Example:
    question: str
    unsafe: bool
    """VLGuard: the question or its image is unsafe. LLaVA: the answer refuses."""
    category: str
    source_id: str
    """The id that its file has, which other records may share."""
    image: str | None


def openings(examples: Sequence[Example], length: int) -> list[Labelled]:
    """The first words of each question, for a lookup; questions about one image are on one side of a split."""
    return [
        Labelled(
            opening(item.question, length), item.unsafe, item.image or f"{index}:{item.source_id}"
        )
        for index, item in enumerate(examples)
    ]


def read_examples(
    path: Path | str, image_folder: Path | str | None = None, *, skip: SkipBad | None = None
) -> list[Example]:
    """Every question of a VLGuard or LLaVA file, in file order.

    Raises:
        DataError: see `read_vlguard` and `read_llava`.
    """
    path = Path(path)
    if is_vlguard(read_items(path)):
        return _from_vlguard(read_vlguard(path, image_folder, skip=skip))
    records = read_llava(path, image_folder, skip=skip)
    return _from_llava([relative_to(record, image_folder) for record in records])


def _from_vlguard(records: list[VLGuardRecord]) -> list[Example]:
    return [
        Example(
            question=pair.question,
            unsafe=pair.kind != "safe_safe",
            category=_category(record)
            if pair.kind == "unsafe"
            else pair.kind.replace("_", " image, ") + " question",
            source_id=record.source_id,
            image=record.image,
        )
        for record, pair in iterate_pairs(records)
    ]


def _category(record: VLGuardRecord) -> str:
    names = [name for name in (record.category, record.subcategory) if name]
    return ": ".join(names) or "unsafe image"


def _from_llava(records: Sequence[LlavaRecord]) -> list[Example]:
    return [
        Example(
            question,
            is_refusal(answer),
            "refused" if is_refusal(answer) else "answered",
            record.source_id,
            record.images[0].path.as_posix() if record.images else None,
        )
        for record in records
        for question, answer in record.turns
    ]
