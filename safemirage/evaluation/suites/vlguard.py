"""VLGuard's files read into samples: three subsets, K rewrites a question, given starts of answers.

Format and counts: VLGuard's own test.json (558 safe images with two questions, 442 unsafe ones with one) and the two
files of rewritten questions of VLM-Safety-Unlearn (eval/safety_data: `What`, 3 x 442 records; `Share`, 556).
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from safemirage.config.vlguard import (
    PLAIN,
    PrefillConfig,
    RewritesConfig,
    VLGuardConfig,
    VLGuardSubset,
)
from safemirage.data.records import DataError, ImageFolder, Problem
from safemirage.data.vlguard import VLGuardRecord, read_vlguard
from safemirage.evaluation.types import ATTEMPT, FIRST_QUESTION, ImageInput, Sample, Subset

_SUBSETS: dict[VLGuardSubset, Subset] = {
    "unsafe": "unsafe",
    "safe_unsafe": "unsafe",
    "safe_safe": "safe",
}


def vlguard_samples(config: VLGuardConfig) -> list[Sample]:
    """Subset by subset, attack by attack, each in its file's order. A question's samples share its record's id as
    group id, whatever the attack.

    Raises:
        DataError: a file cannot be used; a rewrite has no question in the test file, or another image than it; the
            questions of a file have unequal numbers of rewrites.
    """
    records = read_vlguard(Path(config.test).expanduser(), config.images)
    suite = _Suite(records, config.images)
    samples = [condition for subset in config.subsets for condition in suite.plain(subset)]
    for rewrites in config.rewrites:
        samples += suite.rewritten(rewrites)
    for prefill in config.prefills:
        samples += suite.prefilled(prefill)
    return samples


class _Suite:
    def __init__(self, records: Sequence[VLGuardRecord], images: str | None) -> None:
        self._records = records
        self._by_id = {record.id: record for record in records}
        self._folder = None if images is None else ImageFolder(images)
        self._images: dict[str, ImageInput] = {}

    def plain(self, subset: VLGuardSubset) -> Iterator[Sample]:
        for record in self._with(subset):
            yield self._sample(record, subset, attack=PLAIN, question=record.pair(subset).question)

    def prefilled(self, config: PrefillConfig) -> list[Sample]:
        return [
            self._sample(
                record,
                config.subset,
                attack=config.attack,
                question=record.pair(config.subset).question,
                prefill=config.text,
            )
            for record in self._with(config.subset)
        ]

    def rewritten(self, config: RewritesConfig) -> list[Sample]:
        path = Path(config.path).expanduser()
        rows = [
            (record, record.pair(config.subset).question)
            for record in read_vlguard(path, rewrites=True)
            if record.safe == (config.subset != "unsafe")
        ]
        if problems := self._rewrite_problems(rows, config.subset):
            raise DataError(path, problems)
        # The original judges every attempt as an answer to the first rewrite, so each sample carries that.
        first: dict[str, str] = {}
        attempts: Counter[str] = Counter()
        samples = []
        for row, question in rows:
            name = row.source_id
            attempts[name] += 1
            target = {
                FIRST_QUESTION: first.setdefault(name, question),
                ATTEMPT: str(attempts[name]),
            }
            original = self._by_id[name]
            suffix = f"#{attempts[name]}" if attempts[name] > 1 else ""
            condition = self._sample(
                original,
                config.subset,
                attack=config.attack,
                question=question,
                suffix=suffix,
                target=target,
            )
            samples.append(condition)
        return samples

    def _with(self, subset: VLGuardSubset) -> list[VLGuardRecord]:
        return [record for record in self._records if record.safe == (subset != "unsafe")]

    def _rewrite_problems(
        self, rows: Sequence[tuple[VLGuardRecord, str]], subset: VLGuardSubset
    ) -> list[Problem]:
        if not rows:
            return [Problem("(all)", "safe", f"no record belongs to the subset {subset!r}")]
        problems = []
        for row, _ in rows:
            original = self._by_id.get(row.source_id)
            if original is None or original.safe != row.safe:
                problems.append(
                    Problem(
                        row.id,
                        "id",
                        f"{row.source_id!r} is no question of {subset!r} in the test file",
                    )
                )
            elif original.image != row.image:
                problems.append(
                    Problem(
                        row.id, "image", f"{row.image!r}, but the question's is {original.image!r}"
                    )
                )
        counts = Counter(row.source_id for row, _ in rows)
        attempts = max(counts.values())
        problems += [
            Problem(
                name,
                "id",
                f"has {count} rewrites, but others have {attempts}; any-of-K needs one K",
            )
            for name, count in counts.items()
            if count != attempts
        ]
        return problems

    def _sample(  # noqa: PLR0913 - fields of a sample
        self,
        record: VLGuardRecord,
        subset: VLGuardSubset,
        *,
        attack: str,
        question: str,
        prefill: str = "",
        suffix: str = "",
        target: dict[str, str] | None = None,
    ) -> Sample:
        kinds = {"category": record.category, "subcategory": record.subcategory}
        known = {name: value for name, value in kinds.items() if value is not None}
        return Sample(
            sample_id=f"{subset}_{attack}/{record.id}{suffix}",
            condition=f"{subset}_{attack}",
            subset=_SUBSETS[subset],
            attack=attack,
            group_id=record.id,
            question=question,
            image=self._image(record.image),
            target={**known, **(target or {})},
            prefill=prefill,
        )

    def _image(self, name: str) -> ImageInput | None:
        if self._folder is None:
            return None
        if name not in self._images:
            self._images[name] = ImageInput(self._folder.path(name).read_bytes())
        return self._images[name]
