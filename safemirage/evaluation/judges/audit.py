"""Answers with labels, and judges measured on them: `safemirage audit-judge`.

A labelled file is a JSON list of {"question", "answer", "label"} and optionally "id", "subset" (default unsafe); labels
are comply, refuse, deflect, degenerate or other. VLGuard's own files serve too: their answers to unsafe questions are
labelled `refuse`, those to safe questions `comply`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, get_args

from safemirage.config.rates import Label
from safemirage.data.records import DataError, Problem, read_json_records
from safemirage.data.vlguard import is_vlguard, iterate_pairs, read_vlguard
from safemirage.evaluation.judges import Judge, Judged
from safemirage.evaluation.metrics.calibration import Calibration, calibrate, cohen_kappa
from safemirage.evaluation.metrics.rates import COUNTED
from safemirage.evaluation.types import Sample, Subset

_LABELS = tuple(label for label in get_args(Label) if label != "unscored")
_GROUPS = {"unsafe": "unsafe image", "safe_unsafe": "unsafe question", "safe_safe": "safe"}


@dataclass(frozen=True)
class LabelledAnswer:
    group: str
    """What it is counted with: VLGuard's subset, or the file's `subset`."""
    judged: Judged
    label: Label


@dataclass(frozen=True)
class JudgeAudit:
    said: dict[str, list[str | None]]
    """Each judge's label of each answer; None where it gave no verdict."""
    calibrations: dict[tuple[str, str], Calibration]
    """Each judge's calibration in each group; the group `all` is over every answer. Positive is `refuse`."""
    agreements: dict[tuple[str, str], float | None]
    """Cohen's kappa of the labels of each two judges, over answers that both scored."""


def read_labelled(path: Path) -> list[LabelledAnswer]:
    """Raises DataError naming every entry and field that is wrong."""
    items = read_json_records(path)
    if is_vlguard(items):
        return _from_vlguard(path)
    problems = [problem for index, item in enumerate(items) for problem in _problems(index, item)]
    if problems:
        raise DataError(path, problems)
    return [_from_tree(index, item) for index, item in enumerate(items)]


async def audit_judges(
    judges: Sequence[Judge], answers: Sequence[LabelledAnswer], *, positive: Label = "refuse"
) -> JudgeAudit:
    """Each judge's errors in telling `positive` from the rest, by group, and how far the judges agree."""
    said: dict[str, list[str | None]] = {}
    for judge in judges:
        verdicts = await judge.judge([item.judged for item in answers])
        said[judge.name] = [None if v.label == "unscored" else v.label for v in verdicts]
    groups = {"all": list(range(len(answers)))}
    for place, item in enumerate(answers):
        groups.setdefault(item.group, []).append(place)
    calibrations = {
        (name, group): calibrate(
            name, positive, [answers[i].label for i in places], [labels[i] for i in places]
        )
        for name, labels in said.items()
        for group, places in groups.items()
    }
    agreements = {pair: _kappa(said[pair[0]], said[pair[1]]) for pair in combinations(said, 2)}
    return JudgeAudit(said, calibrations, agreements)


def _kappa(first: Sequence[str | None], second: Sequence[str | None]) -> float | None:
    both = [(a, b) for a, b in zip(first, second, strict=True) if a is not None and b is not None]
    return cohen_kappa([a for a, _ in both], [b for _, b in both])


def _from_vlguard(path: Path) -> list[LabelledAnswer]:
    return [
        LabelledAnswer(
            _GROUPS[pair.kind],
            _judged(
                f"{record.id}/{pair.kind}",
                pair.question,
                pair.answer,
                "safe" if pair.kind == "safe_safe" else "unsafe",
            ),
            "comply" if pair.kind == "safe_safe" else "refuse",
        )
        for record, pair in iterate_pairs(read_vlguard(path))
    ]


def _from_tree(index: int, item: dict[str, Any]) -> LabelledAnswer:
    subset = item.get("subset", "unsafe")
    name = item.get("id", f"#{index}")
    return LabelledAnswer(
        subset, _judged(name, item["question"], item["answer"], subset), item["label"]
    )


def _judged(name: str, question: str, answer: str, subset: Subset) -> Judged:
    condition = Sample(
        sample_id=name,
        condition="labelled",
        subset=subset,
        attack="plain",
        group_id=name,
        question=question,
    )
    return Judged(sample=condition, answer=answer)


def _problems(index: int, item: Any) -> list[Problem]:
    if not isinstance(item, dict):
        return [Problem(f"#{index}", "(whole record)", "must be a JSON object")]
    name = str(item.get("id", f"#{index}"))
    problems = [
        Problem(name, field, f"{item.get(field)!r} is not a text")
        for field in ("question", "answer")
        if not isinstance(item.get(field), str)
    ]
    if item.get("label") not in _LABELS:
        allowed = ", ".join(_LABELS)
        problems.append(Problem(name, "label", f"{item.get('label')!r}; allowed: {allowed}"))
    if item.get("subset", "unsafe") not in get_args(Subset):
        problems.append(Problem(name, "subset", f"{item['subset']!r}; allowed: safe, unsafe"))
    return problems


def compliance_errors(
    judge: str, answers: Sequence[LabelledAnswer], said: Sequence[str | None]
) -> Calibration:
    """The judge's errors in telling `comply` from the rest among answers to unsafe questions; `said` as in JudgeAudit."""
    unsafe = [
        (item.label, label)
        for item, label in zip(answers, said, strict=True)
        if item.judged.sample.subset == "unsafe"
    ]
    return calibrate(
        judge, COUNTED["asr"], [label for label, _ in unsafe], [label for _, label in unsafe]
    )
