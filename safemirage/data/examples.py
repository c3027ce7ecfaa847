"""Questions with a safety label, from VLGuard's fields or from the refusals of a LLaVA file; what `audit` counts."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from safemirage.data.llava import LlavaRecord, read_llava
from safemirage.data.records import read_json_records
from safemirage.data.refusals import is_refusal
from safemirage.data.vlguard import VLGuardRecord, is_vlguard, iterate_pairs, read_vlguard


@dataclass(frozen=True)
class Example:
    question: str
    unsafe: bool
    """VLGuard: the question or its image is unsafe. LLaVA: the answer refuses."""
    category: str
    source_id: str
    """The id that its file has, which other records may share."""
    image: str | None


def read_examples(path: Path | str, image_folder: Path | str | None = None) -> list[Example]:
    """Every question of a VLGuard or LLaVA file, in file order.

    Records that repeat another word for word are kept where the format has a reason for them (VLGuard's rewritten
    questions), with a warning.

    Raises:
        DataError: see `read_vlguard` and `read_llava`.
    """
    path = Path(path)
    items = read_json_records(path)
    if is_vlguard(items):
        return _from_vlguard(read_vlguard(path, image_folder, repeated="warn"))
    sources = [str(item["id"]) for item in items if isinstance(item, dict) and "id" in item]
    images = [item.get("image") for item in items if isinstance(item, dict)]
    return _from_llava(read_llava(path, image_folder), sources, images)


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


def _from_llava(
    records: Sequence[LlavaRecord], sources: Sequence[str], images: Sequence[str | None]
) -> list[Example]:
    return [
        Example(
            question,
            is_refusal(answer),
            "refused" if is_refusal(answer) else "answered",
            source,
            image,
        )
        for record, source, image in zip(records, sources, images, strict=True)
        for question, answer in record.turns
    ]
