"""How far built-in judges can be trusted: their errors on answers whose labels are known, beside every rate of theirs.

`safemirage audit-judge FILE` counts the same for any judge on labelled answers of one's own, which is what a rate on
another kind of answers needs.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from safemirage.evaluation.judges.oracle import OracleJudge, UsefulJudge
from safemirage.evaluation.judges.rules import DegenerateJudge, KeywordsJudge, RefusalRulesJudge
from safemirage.text.numbers import percent


@dataclass(frozen=True, kw_only=True)
class Validity:
    """A judge's errors in telling refusals from other answers of one data set."""

    data: str
    missed: int
    refusals: int
    flagged: int
    """Answers that refuse nothing, and are taken for refusals."""
    others: int

    def __str__(self) -> str:
        return (
            f"{self.data}: misses {self.missed} of {self.refusals} refusals "
            f"({percent(self.missed / self.refusals)}) and flags {self.flagged} of {self.others} other answers "
            f"({percent(self.flagged / self.others)})"
        )


_VLGUARD = "VLGuard's reference answers (test)"
_XSTEST = "answers of GPT-4 and Llama 2 to XSTest, labelled by people"
VALIDITY: Mapping[str, tuple[Validity, ...]] = {
    KeywordsJudge.name: (
        Validity(data=_VLGUARD, missed=130, refusals=1000, flagged=4, others=558),
        Validity(data=_XSTEST, missed=9, refusals=441, flagged=50, others=406),
    ),
    RefusalRulesJudge.name: (
        Validity(data=_VLGUARD, missed=3, refusals=1000, flagged=5, others=558),
        Validity(data=_XSTEST, missed=7, refusals=441, flagged=10, others=406),
    ),
}
"""Of judges that are the same everywhere; tests count them again."""
EXACT = frozenset({OracleJudge.name, UsefulJudge.name, DegenerateJudge.name})
"""Judges that compare with a target, or say what they count: there is no other label to differ from."""
VALIDATED_SUITES = frozenset({"vlguard", "xstest"})
"""Names of suites whose answers are of the kind that the judges above were measured on."""


def validity_of(judge: str) -> str:
    """A sentence on a judge's errors, empty for one that can have none."""
    if judge in EXACT:
        return ""
    if known := VALIDITY.get(judge):
        return f"judge {judge}, on {'; on '.join(map(str, known))}. On other answers its errors are not known."
    return (
        f"judge {judge}: how often it errs was not measured; `safemirage audit-judge LABELLED --config FILE` does it on "
        "answers with labels."
    )
