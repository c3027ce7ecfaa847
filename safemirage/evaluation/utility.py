"""What a model can still do: the accuracy of evaluations of utility, broken down as each set's official table is.

scienceqa    NAT, SOC, LAN (subject), TXT (has a hint), IMG (has a picture), NO (neither), G1-6, G7-12: the columns of
             github.com/lupantech/ScienceQA, tools/evaluate_acc.py, commit 2cbf831; IMG is the number that LLaVA reports
vqav2        answer type: yes/no, number, other
vizwiz       answer type: the same and unanswerable; and how well `unanswerable` is told, as F1 and average precision
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from safemirage.evaluation.accuracy import ACCURACY, mean_score
from safemirage.evaluation.samples import Sample
from safemirage.evaluation.sets.scienceqa import GRADE, HAS_HINT, SUBJECT
from safemirage.evaluation.sets.short_answers import ANSWER_TYPE
from safemirage.evaluation.sets.vizwiz import ANSWERABLE
from safemirage.evaluation.stored import StoredEvaluation
from safemirage.evaluation.vqa_answers import normalised

OVERALL = "overall"
_SUBJECTS: Mapping[str, str] = {
    "natural science": "NAT",
    "social science": "SOC",
    "language science": "LAN",
}
_LOW_GRADES = frozenset(f"grade{number}" for number in range(1, 7))
_HIGH_GRADES = frozenset(f"grade{number}" for number in range(7, 13))
_UNANSWERABLE = "unanswerable"


@dataclass(frozen=True, kw_only=True)
class UtilityScore:
    """The accuracy over one group of a set's questions."""

    evaluation: str
    case: str
    group: str
    """`overall`, or a column of the set's table."""
    value: float | None
    """0..1."""
    low: float | None
    high: float | None
    n: int
    judge: str


@dataclass(frozen=True, kw_only=True)
class Unanswerability:
    """How well answers tell the questions that people could not answer, the positive class.

    An answer predicts it when it is `unanswerable` once normalised. VizWiz's script wants a confidence; this one is 0 or 1.
    """

    f1: float | None
    """2 TP / (2 TP + FP + FN); None where no question is unanswerable and none was called so."""
    average_precision: float | None
    """Sum of (R_i - R_{i-1}) P_i over the thresholds 1 and 0, as scikit-learn defines it: R P + (1 - R) * the share of the
    positive class; None without it."""
    n: int


def utility_scores(one: StoredEvaluation) -> list[UtilityScore]:
    """Overall first, then the groups in the order of the set's table; none where accuracy was not measured."""
    judge = one.judge(ACCURACY)
    if judge is None:
        return []
    members: dict[tuple[str, str], list[Sample]] = {}
    for sample in one.samples:
        for group in (OVERALL, *groups_of(sample)):
            members.setdefault((sample.case, group), []).append(sample)
    return [
        UtilityScore(
            evaluation=one.id,
            case=case,
            group=group,
            judge=judge,
            **asdict(mean_score(found, judge)),
        )
        for (case, group), found in sorted(members.items(), key=lambda item: _place(*item[0]))
    ]


def groups_of(sample: Sample) -> list[str]:
    """The columns of its set's table that a question counts for, beside the overall one."""
    truth = sample.truth
    if ANSWER_TYPE in truth:
        return [truth[ANSWER_TYPE]]
    if SUBJECT not in truth:
        return []
    has_text, has_image = truth[HAS_HINT] == "true", sample.image is not None
    holds = {
        _SUBJECTS.get(truth[SUBJECT], truth[SUBJECT]): True,
        "TXT": has_text,
        "IMG": has_image,
        "NO": not has_text and not has_image,
        "G1-6": truth[GRADE] in _LOW_GRADES,
        "G7-12": truth[GRADE] in _HIGH_GRADES,
    }
    return [group for group, is_member in holds.items() if is_member]


def unanswerability(samples: Sequence[Sample]) -> Unanswerability | None:
    """Of the answered questions that say whether people could answer; None where there is none."""
    pairs = [
        (normalised(sample.answer) == _UNANSWERABLE, sample.truth[ANSWERABLE] == "0")
        for sample in samples
        if sample.answer is not None and ANSWERABLE in sample.truth
    ]
    if not pairs:
        return None
    hits = sum(said and true for said, true in pairs)
    said, true = sum(said for said, _ in pairs), sum(true for _, true in pairs)
    precision, recall = hits / said if said else 0.0, hits / true if true else 0.0
    return Unanswerability(
        f1=2 * hits / (said + true) if said + true else None,
        average_precision=recall * precision + (1 - recall) * true / len(pairs) if true else None,
        n=len(pairs),
    )


def score_tree(score: UtilityScore | Unanswerability) -> dict[str, Any]:
    return asdict(score)


_ORDER = (OVERALL, *_SUBJECTS.values(), "TXT", "IMG", "NO", "G1-6", "G7-12", "yes/no", "number")


def _place(case: str, group: str) -> tuple[str, int, str]:
    return case, _ORDER.index(group) if group in _ORDER else len(_ORDER), group
