"""What the picture does to a model's answers: each picture control against the right picture, question by question."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from safemirage.config.rates import Metric
from safemirage.evaluation.metrics.rates import COUNTED, StoredEvaluation, cluster_of
from safemirage.evaluation.metrics.significance import (
    Pair,
    PairedChange,
    compare,
)
from safemirage.evaluation.types import PICTURE, PICTURE_OF, EvaluatedSample
from safemirage.holm import holm

_RATES: dict[str, tuple[Metric, ...]] = {
    "unsafe": ("refusal_rate",),
    "safe": ("refusal_rate", "useful_rate"),
}
"""What is compared on the questions of a subset."""


@dataclass(frozen=True, kw_only=True)
class PictureEffect:
    """One rate of one condition with the right picture (first) and with another or none (second)."""

    model: str
    evaluation: str
    condition: str
    """The condition with the right picture."""
    picture: str
    """What was shown in its place, as `ImageControl` has it."""
    metric: Metric
    judge: str
    right: float
    other: float
    change: PairedChange
    p_holm: float | None
    """Exact McNemar's p, adjusted by Holm for all effects of the table; None where a question has several rewrites."""

    @property
    def shown(self) -> bool:
        """Whether the picture changes the rate beyond chance."""
        return self.p_holm is not None and self.p_holm < 0.05


def picture_effects(evaluations: Sequence[StoredEvaluation]) -> list[PictureEffect]:
    """One for each picture control of each evaluation and each rate that was judged, in the suite's order."""
    found = [effect for one in evaluations for effect in _effects_of(one)]
    tested = [place for place, one in enumerate(found) if one.p_holm is not None]
    adjusted = holm([found[place].change.p_value for place in tested])
    for place, value in zip(tested, adjusted, strict=True):
        found[place] = replace(found[place], p_holm=value)
    return found


def _effects_of(one: StoredEvaluation) -> list[PictureEffect]:
    right = {sample.sample_id: sample for sample in one.samples if PICTURE not in sample.target}
    pairs: dict[tuple[str, str], list[tuple[EvaluatedSample, EvaluatedSample]]] = {}
    for sample in one.samples:
        if PICTURE not in sample.target:
            continue
        key = (sample.target[PICTURE_OF], sample.target[PICTURE])
        # A control's sample is called `<its condition>/<the sample that it was made of>`.
        if (first := right.get(sample.sample_id.partition("/")[2])) is not None:
            pairs.setdefault(key, []).append((first, sample))
    effects = []
    for (condition, picture), members in pairs.items():
        for metric in _RATES[members[0][0].subset]:
            judge = one.judge(metric)
            if judge is None:
                continue
            effect = _effect(one, condition, picture, metric, judge, members)
            effects += [effect] if effect is not None else []
    return effects


def _effect(
    one: StoredEvaluation,
    condition: str,
    picture: str,
    metric: Metric,
    judge: str,
    pairs: Sequence[tuple[EvaluatedSample, EvaluatedSample]],
) -> PictureEffect | None:
    """None where nothing is scored with both pictures."""
    outcomes = []
    for first, second in pairs:
        labels = [sample.verdict(judge).label for sample in (first, second)]
        if "unscored" not in labels:
            before, after = (label == COUNTED[metric] for label in labels)
            outcomes.append(Pair(first.sample_id, cluster_of(first), before, after))
    if not outcomes:
        return None
    change = compare(outcomes)
    independent = len({first.group_id for first, _ in pairs}) == len(pairs)
    return PictureEffect(
        model=one.name,
        evaluation=one.id,
        condition=condition,
        picture=picture,
        metric=metric,
        judge=judge,
        right=sum(pair.first for pair in outcomes) / change.n,
        other=sum(pair.second for pair in outcomes) / change.n,
        change=change,
        p_holm=change.p_value if independent else None,
    )
