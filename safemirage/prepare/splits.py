"""The forget / retain pipeline: VLGuard's training records and a table of harmful answers become LLaVA-format files.

safemirage prepare train.json --answers answers.json --mix llava_mix.json --out data/
"""

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safemirage.data.llava import LlavaRecord, TurnImage, record_tree
from safemirage.data.records import DataError, Problem, unique_ids
from safemirage.data.vlguard import PairKind, VLGuardRecord

REFERENCE = "train_llava_format.json"
"""VLGuard as it is: one turn an unsafe image, two turns in random order a safe one."""
HARMFUL = "train_unsafe_response.json"
"""The same questions, unsafe ones with their harmful answers; those without one are left out."""
FORGET = "train_forget.json"
"""Unsafe images with their harmful answers: what NPO unlearns."""
FORGET_TEXT = "train_forget_qa_full.json"
"""The same with the answer also at the end of the question: what RMU unlearns in the original."""
RETAIN = "train_retain.json"
"""Safe questions about safe images."""
RETAIN_MIXED = "train_retain_mixed.json"
"""The same and a general mix, shuffled."""


@dataclass(frozen=True)
class Mix:
    """General conversations to draw from; their images lie in the same folder as VLGuard's, relative to it."""

    source: Path
    records: Sequence[LlavaRecord]
    total: int = 2000
    """Records of the mixed retain set, VLGuard's among them."""


def build_splits(
    records: Sequence[VLGuardRecord],
    *,
    answers: Mapping[str, str] | None = None,
    mix: Mix | None = None,
    seed: int = 42,
    source: Path | str = "records",
) -> dict[str, list[dict[str, Any]]]:
    """The JSON records of each file by its name; files that need answers or a mix are absent without them.

    `answers` holds the harmful answers by record id, see `assign_answers`.

    Raises:
        DataError: a retain answer is blank, no unsafe image has an answer, or the mix is too small.
    """
    retain = _retain(records, source)
    files = {REFERENCE: _reference(records, seed), RETAIN: retain}
    if answers is not None:
        forget = [
            _record(item, [_answered(item, "unsafe", answers)])
            for item in records
            if not item.safe and item.id in answers
        ]
        if not forget:
            raise DataError(
                Path(source), "no unsafe image has a harmful answer, so nothing would be forgotten"
            )
        files |= {
            HARMFUL: _harmful(records, answers),
            FORGET: forget,
            FORGET_TEXT: _answer_in_question(forget),
        }
    if mix is not None:
        files[RETAIN_MIXED] = _mixed(retain, mix, seed)
    return {name: [record_tree(item) for item in items] for name, items in files.items()}


def _record(record: VLGuardRecord, turns: Iterable[tuple[str, str]]) -> LlavaRecord:
    return LlavaRecord(record.id, (TurnImage(Path(record.image)),), tuple(turns))


def _reference(records: Sequence[VLGuardRecord], seed: int) -> list[LlavaRecord]:
    # A generator for each draw, so that leaving out the mix does not change the order of turns.
    rng = random.Random(f"{seed}:rounds")
    result = []
    for record in records:
        turns = [(pair.question, pair.answer) for pair in record.pairs]
        rng.shuffle(turns)
        result.append(_record(record, turns))
    return result


def _retain(records: Sequence[VLGuardRecord], source: Path | str) -> list[LlavaRecord]:
    pairs = [(record, record.pair("safe_safe")) for record in records if record.safe]
    blank = [
        Problem(record.id, "instr-resp[0].response", "is blank, so there is nothing to retain")
        for record, pair in pairs
        if not pair.answer.strip()
    ]
    if blank:
        raise DataError(Path(source), blank)
    return [_record(record, [(pair.question, pair.answer)]) for record, pair in pairs]


def _answered(record: VLGuardRecord, kind: PairKind, answers: Mapping[str, str]) -> tuple[str, str]:
    return record.pair(kind).question, answers[record.id]


def _harmful(records: Sequence[VLGuardRecord], answers: Mapping[str, str]) -> list[LlavaRecord]:
    result = []
    for record in records:
        turns = [(pair.question, pair.answer) for pair in record.pairs if pair.kind == "safe_safe"]
        if record.id in answers:
            turns.append(_answered(record, "safe_unsafe" if record.safe else "unsafe", answers))
        if turns:
            result.append(_record(record, turns))
    return result


def _answer_in_question(forget: Sequence[LlavaRecord]) -> list[LlavaRecord]:
    return [
        replace(
            record,
            turns=tuple((f"{question}\n{answer}", answer) for question, answer in record.turns),
        )
        for record in forget
    ]


def _mixed(retain: Sequence[LlavaRecord], mix: Mix, seed: int) -> list[LlavaRecord]:
    wanted = mix.total - len(retain)
    if not 0 <= wanted <= len(mix.records):
        raise DataError(
            mix.source,
            f"{mix.total} records need {wanted} beside the {len(retain)} retained ones, and it holds {len(mix.records)}; "
            f"choose a total of {len(retain)} to {len(retain) + len(mix.records)}",
        )
    rng = random.Random(f"{seed}:mix")
    items = [*retain, *rng.sample(mix.records, wanted)]
    names = unique_ids([item.id for item in items])
    result = [replace(item, id=name) for item, name in zip(items, names, strict=True)]
    rng.shuffle(result)
    return result
