"""`safemirage prepare`: from files to files."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from safemirage.config.loading.identity import digest_of, file_digest
from safemirage.data.llava import read_llava, relative_to
from safemirage.data.records import DataError, SkipBad
from safemirage.data.vlguard import VLGuardRecord, read_vlguard
from safemirage.files import write_files
from safemirage.prepare.answers import assign_answers, read_answers
from safemirage.prepare.selection import FOLDER, SetAside, set_aside, shared_keys, write_selection
from safemirage.prepare.splits import Mix, build_splits
from safemirage.text.refusal_keywords import is_refusal

MANIFEST = "prepare.json"
"""A file beside the prepared ones that says what they were made from, by digest, and how many records each has."""


@dataclass(frozen=True, kw_only=True)
class PrepareInputs:
    train: Path
    answers: Path | None = None
    mix: Path | None = None
    image_folder: Path | None = None
    selection: int = 0
    """Images of each kind, safe and unsafe, that are set aside for searches; see `selection.py`."""
    test: Path | None = None
    """VLGuard's test file, which the images that are set aside must share nothing with."""
    test_images: Path | None = None
    """Its image folder; None: the same as the training file's."""
    skip_bad: int = 0
    """How many unusable records of each file may be left out instead of refusing it."""

    def digests(self) -> dict[str, str | None]:
        """SHA-256 of each input file, in hex."""
        files = {"train": self.train, "answers": self.answers, "mix": self.mix, "test": self.test}
        return {name: None if path is None else file_digest(path) for name, path in files.items()}


@dataclass(frozen=True, kw_only=True)
class Prepared:
    records: dict[str, int]
    """Number of records by file."""
    states: dict[str, str]
    """`written` or `unchanged` by file."""
    notes: tuple[str, ...]
    """What was counted on the way, in sentences."""


def prepare_files(
    inputs: PrepareInputs, folder: Path, *, total: int = 2000, seed: int = 42, force: bool = False
) -> Prepared:
    """Reads, splits, mixes and writes; see `build_splits` for the files.

    Raises:
        DataError: an input is unusable.
        FileExistsError: a file in `folder` would change and `force` is not given; nothing is written then.
    """
    skip = SkipBad(inputs.skip_bad)
    records = read_vlguard(inputs.train, inputs.image_folder, skip=skip)
    if not any(record.safe for record in records) or all(record.safe for record in records):
        raise DataError(inputs.train, "needs both safe and unsafe images, to retain and to forget")
    answers = None
    if inputs.answers is not None:
        table = read_answers(inputs.answers)
        answers = assign_answers(records, table, source=inputs.answers)
    # After the answers, which may be there for every image.
    held: tuple[VLGuardRecord, ...] = ()
    if inputs.selection:
        parts = _parts(records, inputs, seed)
        records, held = list(parts.kept), parts.selection
    mix = None
    if inputs.mix is not None:
        conversations = read_llava(inputs.mix, inputs.image_folder, skip=skip)
        relative = [relative_to(item, inputs.image_folder) for item in conversations]
        mix = Mix(inputs.mix, relative, total)
    files = build_splits(records, answers=answers, mix=mix, seed=seed, source=inputs.train)
    counts = {name: len(items) for name, items in files.items()}
    manifest = {
        "seed": seed,
        "total": total if mix is not None else None,
        "selection": [record.id for record in held],
        "inputs": inputs.digests(),
        "left_out": skip.left_out,
        "records": counts,
        "digests": {name: digest_of(items) for name, items in files.items()},
    }
    states = write_files(folder, {**files, MANIFEST: manifest}, force=force)
    notes = _notes(records, answers)
    if inputs.selection:
        assert inputs.image_folder is not None, "_parts needs it"
        suite = folder / FOLDER
        found = write_selection(held, suite, images=inputs.image_folder, force=force)
        counted = ", ".join(f"{count} {name}" for name, count in found.items())
        notes = (*notes, f"set aside for searches, as the suite {suite}: {counted}")
    return Prepared(records=counts, states=states, notes=notes)


def _parts(records: Sequence[VLGuardRecord], inputs: PrepareInputs, seed: int) -> SetAside:
    if inputs.image_folder is None:
        raise DataError(inputs.train, "selection: pictures are compared; give their --image-folder")
    taken: list[str] = []
    if inputs.test is not None:
        folder = inputs.test_images or inputs.image_folder
        taken += shared_keys(read_vlguard(inputs.test, folder), folder)
    return set_aside(
        records,
        inputs.selection,
        images=inputs.image_folder,
        seed=seed,
        source=inputs.train,
        taken=taken,
    )


def _notes(records: Sequence[VLGuardRecord], answers: dict[str, str] | None) -> tuple[str, ...]:
    num_pairs = sum(len(record.pairs) for record in records)
    num_safe = sum(record.safe for record in records)
    notes = [
        f"read {len(records)} records ({num_safe} safe images, {len(records) - num_safe} unsafe) "
        f"with {num_pairs} pairs of question and answer"
    ]
    retained = sum(is_refusal(record.pair("safe_safe").answer) for record in records if record.safe)
    if retained:
        notes.append(f"{retained} retained answer(s) look like refusals, by VLGuard's keywords")
    if answers is None:
        return (
            *notes,
            "no table of answers, so no forget set; see `safemirage prepare answers --help`",
        )
    unsafe = [record.id for record in records if not record.safe]
    missing = sum(item not in answers for item in unsafe)
    refusing = sum(is_refusal(answers[item]) for item in unsafe if item in answers)
    if missing:
        notes.append(
            f"{missing} unsafe image(s) have no harmful answer and are not in the forget set"
        )
    if refusing:
        notes.append(
            f"{refusing} answer(s) of the forget set look like refusals, by VLGuard's keywords; "
            "unlearning them unlearns refusing"
        )
    return tuple(notes)
