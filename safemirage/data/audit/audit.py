"""The model-free audit: how far can a safety label be told from a question's words, or from a simple feature of its picture?

A data set in which one word or a frame gives the label away teaches a model to refuse the word or the frame, not the content.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from safemirage.data.audit.examples import Example, openings, read_examples
from safemirage.data.audit.lookup import (
    Lookup,
    LookupScore,
    fit_lookup,
    score_held_out,
    score_lookup,
)
from safemirage.data.audit.pictures import (
    MEAN_COLOUR,
    PictureAudit,
    audit_pictures,
    read_pictures,
)
from safemirage.data.audit.words import (
    KINDS,
    OPENINGS,
    CategoryStat,
    Kind,
    WordStat,
    category_stats,
    word_stats,
)
from safemirage.data.records import SkipBad
from safemirage.text.numbers import percent

STRONG = 0.5
PARTIAL = 0.2
"""Share of the majority guess's errors that a lookup must remove, on held-out questions, to be called a shortcut."""


@dataclass(frozen=True)
class Transfer:
    """The audited file's lookups on another file, and what the two files share."""

    file: str
    scores: tuple[LookupScore, ...]
    shared_ids: tuple[str, ...]
    shared_images: tuple[str, ...]


@dataclass(frozen=True)
class Audit:
    file: str
    questions: int
    safe: int
    unsafe: int
    words: Mapping[Kind, tuple[WordStat, ...]]
    """Words that occur at least `min_count` times, most frequent first."""
    min_count: int
    categories: tuple[CategoryStat, ...]
    held_out: tuple[LookupScore, ...]
    """Lookups on the file itself: fitted on four fifths of its images, scored on the others, all five ways."""
    transfers: tuple[Transfer, ...]
    verdict: str
    pictures: PictureAudit | None = None
    """The audit of the pictures; None without an image folder, or where no record has a picture."""
    left_out: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """File -> each unusable record that was left out, with what is wrong with it."""


def audit_files(
    file: Path | str,
    against: Sequence[Path | str] = (),
    *,
    image_folder: Path | str | None = None,
    skip_bad: int = 0,
) -> Audit:
    """The audit of a VLGuard or LLaVA file, against others; at most `skip_bad` records of each may be left out.

    Raises:
        DataError: as `read_examples`.
    """
    skip = SkipBad(skip_bad)
    names = _names([Path(path) for path in (file, *against)])
    examples = {name: read_examples(path, image_folder, skip=skip) for name, path in names.items()}
    first, *others = names
    found = audit(first, examples[first], {name: examples[name] for name in others})
    found = replace(found, left_out=skip.left_out)
    if image_folder is None:
        return found
    folder = Path(image_folder).expanduser()
    shown = {name: read_pictures(items, folder) for name, items in examples.items()}
    if not shown[first]:
        return found
    pictures = audit_pictures(shown[first], {name: shown[name] for name in others})
    verdict = f"{found.verdict} {_picture_verdict(pictures)}"
    return replace(found, pictures=pictures, verdict=verdict)


def _names(paths: Sequence[Path]) -> dict[str, Path]:
    """The files by what they are called on screen: their name, or the path where two have one name."""
    names = [path.name for path in paths]
    return {(str(path) if names.count(path.name) > 1 else path.name): path for path in paths}


def audit(
    file: str,
    examples: Sequence[Example],
    against: Mapping[str, Sequence[Example]] | None = None,
    *,
    min_count: int = 5,
) -> Audit:
    """The audit of a file's questions; `against` holds those of other files by name."""
    unsafe = sum(item.unsafe for item in examples)
    asked = {kind: openings(examples, length) for kind, length in OPENINGS.items()}
    lookups = [fit_lookup(items, kind) for kind, items in asked.items()]
    held_out = tuple(score_held_out(items, kind) for kind, items in asked.items())
    words = {kind: word_stats(examples, kind, min_count=min_count) for kind in KINDS}
    transfers = tuple(
        _transfer(name, lookups, examples, others) for name, others in (against or {}).items()
    )
    return Audit(
        file=file,
        questions=len(examples),
        safe=len(examples) - unsafe,
        unsafe=unsafe,
        words=words,
        min_count=min_count,
        categories=category_stats(examples),
        held_out=held_out,
        transfers=transfers,
        verdict=_verdict(file, held_out[0], words["first word"], transfers),
    )


def _transfer(
    name: str, lookups: Sequence[Lookup], examples: Sequence[Example], others: Sequence[Example]
) -> Transfer:
    return Transfer(
        file=name,
        scores=tuple(
            score_lookup(lookup, openings(others, length))
            for lookup, length in zip(lookups, OPENINGS.values(), strict=True)
        ),
        shared_ids=_shared(
            [item.source_id for item in examples], [item.source_id for item in others]
        ),
        shared_images=_shared([item.image for item in examples], [item.image for item in others]),
    )


def _shared(left: Iterable[str | None], right: Iterable[str | None]) -> tuple[str, ...]:
    return tuple(sorted(item for item in set(left) & set(right) if item is not None))


def _verdict(
    file: str, score: LookupScore, words: Sequence[WordStat], transfers: Sequence[Transfer]
) -> str:
    if not score.safe_questions or not score.unsafe_questions:
        only = "unsafe" if score.unsafe_questions else "safe"
        return f"{file} holds only {only} questions, so its words have no label to give away."
    fact = (
        f"the first word alone tells the label of {percent(score.accuracy)} of held-out questions "
        f"(the majority label: {percent(score.majority_accuracy)})"
    )
    if score.removed < PARTIAL:
        return f"No shortcut through the first word: {fact}."
    strength = "A strong shortcut" if score.removed >= STRONG else "A partial shortcut"
    parts = [f"{strength} through the first word: {fact}", *_examples(words, score)]
    for transfer in transfers:
        parts += _failures(transfer)
    return "; ".join(parts) + ". A model can learn to refuse the word and miss the content."


def _picture_verdict(found: PictureAudit) -> str:
    if found.unsafe in (0, found.pictures):
        only = "unsafe" if found.unsafe else "safe"
        return f"All pictures are {only}, so they have no label to give away."
    # What a picture shows has a mean colour, too, so that it must tell most labels to be called a shortcut.
    telling = [
        one
        for one in found.held_out
        if one.removed >= (STRONG if one.kind == MEAN_COLOUR else PARTIAL)
    ]
    best = (telling or found.held_out)[0]
    fact = (
        f"the {best.kind} tells the label of {percent(best.accuracy)} of held-out pictures (the majority label: "
        f"{percent(best.majority_accuracy)})"
    )
    if not telling:
        return f"No shortcut through a simple feature of the pictures: the best, {fact}."
    strength = "A strong shortcut" if best.removed >= STRONG else "A partial shortcut"
    return f"{strength} through the pictures: {fact}. A model can learn to refuse it and miss the content."


def _examples(words: Sequence[WordStat], score: LookupScore) -> list[str]:
    """The most frequent word on each side."""
    safe = [item for item in words if item.points_to == "safe" and item.p_value < 0.05]
    unsafe = [item for item in words if item.points_to == "unsafe" and item.p_value < 0.05]
    parts = []
    if safe:
        parts.append(
            f"'{safe[0].word}' opens {percent(safe[0].safe / score.safe_questions)} of the safe questions"
        )
    if unsafe:
        parts.append(
            f"'{unsafe[0].word}' opens {percent(unsafe[0].unsafe / score.unsafe_questions)} of the unsafe ones"
        )
    always = [item.word for item in unsafe if not item.safe]
    if always:
        parts.append(f"{_some(always)} open unsafe questions only")
    return parts


def _failures(transfer: Transfer) -> list[str]:
    score = transfer.scores[0]
    parts = []
    if score.unsafe_flagged is not None and score.unsafe_flagged <= 0.5:
        parts.append(
            f"on {transfer.file} it flags {percent(score.unsafe_flagged)} of the unsafe questions"
        )
    if score.safe_flagged is not None and score.safe_flagged >= 0.5:
        parts.append(
            f"on {transfer.file} it flags {percent(score.safe_flagged)} of the safe questions"
        )
    return parts


def _some(words: Sequence[str]) -> str:
    shown = ", ".join(f"'{word}'" for word in words[:4])
    return f"{shown} and {len(words) - 4} more words" if len(words) > 4 else shown
