"""The selection split: VLGuard's training images that are set aside for a search to compare its trials on.

Only an image that no other record has, with questions that no other record asks, is set aside; so the split shares neither
with what is trained on, nor with the test file. It becomes a suite with each question as it is and rewritten by rule, for
`selection.suite` of a search file.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safemirage.config.attack import RuleRewritesConfig
from safemirage.config.loading.identity import file_digest
from safemirage.config.vlguard import VLGuardConfig
from safemirage.data.records import DataError, ImageFolder
from safemirage.data.vlguard import VLGuardRecord
from safemirage.evaluation.attacks.first_words import AttackSpec, attack_samples
from safemirage.evaluation.attacks.rules import RuleRewriter
from safemirage.evaluation.suites.vlguard import vlguard_samples
from safemirage.evaluation.suites.writer import write_suite
from safemirage.files import write_files

FOLDER = "selection"
"""Folder of the suite, beside the prepared files."""
RECORDS = "records.json"
"""The records of the split in VLGuard's format, inside that folder."""
_ATTACKS = (
    AttackSpec(attack="what", subset="unsafe", attempts=1),
    AttackSpec(attack="share", subset="safe", attempts=1),
)
_QUESTIONS = {
    "safe_safe": "safe_instruction",
    "safe_unsafe": "unsafe_instruction",
    "unsafe": "instruction",
}


@dataclass(frozen=True)
class SetAside:
    """VLGuard's training records in two parts, each in the file's order."""

    kept: tuple[VLGuardRecord, ...]
    selection: tuple[VLGuardRecord, ...]


def shared_keys(records: Iterable[VLGuardRecord], images: Path) -> Iterator[str]:
    """What records may share with others: their pictures by content, their questions but for case and spaces."""
    folder = ImageFolder(images)
    for record in records:
        yield file_digest(folder.path(record.image))
        for pair in record.pairs:
            yield f"question: {' '.join(pair.question.casefold().split())}"


def set_aside(
    records: Sequence[VLGuardRecord],
    count: int,
    *,
    images: Path,
    seed: int,
    source: Path,
    taken: Iterable[str] = (),
) -> SetAside:
    """`count` safe and `count` unsafe images, and the rest.

    Args:
        taken: `shared_keys` of the test file's records, which the split must have none of.

    Raises:
        DataError: too few records share neither image nor question with another; says how many do.
    """
    shared = Counter([*taken, *shared_keys(records, images)])
    alone = [one for one in records if all(shared[key] == 1 for key in shared_keys([one], images))]
    rng = random.Random(f"{seed}:selection")
    chosen: set[str] = set()
    for safe in (True, False):
        there = [record.id for record in alone if record.safe == safe]
        most = min(len(there), sum(record.safe == safe for record in records) - 1)
        if count > most:
            raise DataError(
                source,
                f"selection: {count} {'safe' if safe else 'unsafe'} images are wanted, and at most {most} can be set aside: "
                f"{len(there)} share neither picture nor question with another record or the test file, and one must be "
                "left to train on; ask for fewer",
            )
        chosen |= set(rng.sample(there, count))
    return SetAside(
        kept=tuple(record for record in records if record.id not in chosen),
        selection=tuple(record for record in records if record.id in chosen),
    )


def write_selection(
    records: Sequence[VLGuardRecord], folder: Path, *, images: Path, force: bool
) -> dict[str, int]:
    """Writes the suite and the records; how many samples each condition has.

    Raises:
        FileExistsError: a file would change and `force` is not given.
    """
    trees = [_tree(record) for record in records]
    write_files(folder, {RECORDS: trees}, force=force)
    plain = vlguard_samples(VLGuardConfig(test=str(folder / RECORDS), images=str(images)))
    rewriter = RuleRewriter(RuleRewritesConfig())
    # A question that no rule can turn is asked as it is alone.
    attacked = asyncio.run(attack_samples(plain, _ATTACKS, rewriter, on_missing="drop"))
    write_suite(folder, "selection", attacked.samples, force=force)
    return dict(Counter(sample.condition for sample in attacked.samples))


def _tree(record: VLGuardRecord) -> dict[str, Any]:
    """A record as VLGuard's files have it."""
    kinds = {"harmful_category": record.category, "harmful_subcategory": record.subcategory}
    return {
        "id": record.id,
        "image": record.image,
        "safe": record.safe,
        **{name: value for name, value in kinds.items() if value is not None},
        "instr-resp": [
            {_QUESTIONS[pair.kind]: pair.question, "response": pair.answer} for pair in record.pairs
        ],
    }
