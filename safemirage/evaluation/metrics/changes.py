"""What changed from one evaluation to another, sample by sample: the same questions, the same judge, two models.

Pairs are made by sample id, never by place. asr of unsafe conditions is paired by question (any of its rewrites);
refusal_rate and useful_rate of safe ones by answer. Exact McNemar gives a p-value where a question stands for itself;
rewrites of one question are not independent, so a rate over several rewrites a question has the interval alone. All
p-values of a comparison are adjusted together by Holm.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from safemirage.config.rates import Metric
from safemirage.evaluation.metrics.rates import (
    COUNTED,
    METRICS,
    SUBSETS,
    StoredEvaluation,
    cluster_of,
    outcome,
)
from safemirage.evaluation.metrics.significance import Pair, compare
from safemirage.evaluation.types import EvaluatedSample
from safemirage.holm import holm

_PAIRED_FIELDS = ("condition", "group_id", "question", "prefill", "image")


@dataclass(frozen=True, kw_only=True)
class Flip:
    """A question, or an answer, whose outcome changed, with the answers of both sides in one order."""

    unit: str
    """The group's id for asr, the sample's id otherwise."""
    counts_now: bool
    """Whether the second counts and the first did not."""
    first: tuple[EvaluatedSample, ...]
    second: tuple[EvaluatedSample, ...]


@dataclass(frozen=True, kw_only=True)
class Change:
    first: str
    second: str
    """Names of the two evaluations."""
    condition: str
    metric: Metric
    judge: str
    unit: str
    """What n counts: questions or answers."""
    n: int
    """Number of units that are scored on both sides."""
    first_value: float
    second_value: float
    difference: float
    """Second minus first, as the rates in 0..1."""
    low: float
    high: float
    """Bounds of the 95 % interval, see `difference_bounds`."""
    p_value: float | None
    """Exact McNemar, two-sided; None for a rate over several rewrites a question."""
    p_holm: float | None
    """The p-value adjusted by Holm for all of the comparison."""
    flips: tuple[Flip, ...]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A baseline and what changed from it to each other evaluation."""

    evaluations: Sequence[StoredEvaluation]
    """The evaluations that are compared; the first is the baseline."""
    changes: Sequence[Change]
    notes: Sequence[str]
    """What could not be paired, and judges that are not the same."""


def compare_evaluations(evaluations: Sequence[StoredEvaluation]) -> Comparison:
    """The first evaluation against each of the others. Raises ValueError for fewer than two."""
    if len(evaluations) < 2:
        raise ValueError(f"{len(evaluations)} evaluations: a comparison needs two or more")
    first, *others = evaluations
    changes: list[Change] = []
    notes: list[str] = []
    for second in others:
        pairs, said = _paired_samples(first, second)
        notes += said + _judge_notes(first, second) + _protocol_notes(first, second)
        for condition in dict.fromkeys(one.condition for one, _ in pairs):
            members = [pair for pair in pairs if pair[0].condition == condition]
            changes += _condition_changes(first, second, condition, members, notes)
    return Comparison(evaluations=evaluations, changes=_adjusted(changes), notes=notes)


SamplePair = tuple[EvaluatedSample, EvaluatedSample]


def _paired_samples(
    first: StoredEvaluation, second: StoredEvaluation
) -> tuple[list[SamplePair], list[str]]:
    """The samples that both asked, in the first's order, and what was left out."""
    theirs = {sample.sample_id: sample for sample in second.samples}
    both = [(one, theirs[one.sample_id]) for one in first.samples if one.sample_id in theirs]
    same = [pair for pair in both if _key(pair[0]) == _key(pair[1])]
    counts = {
        f"only {first.name} has": len(first.samples) - len(both),
        f"only {second.name} has": len(second.samples) - len(both),
        "differ in question, image, condition or group though they share an id": len(both)
        - len(same),
    }
    notes = [
        f"{first.name} and {second.name}: {count} samples that {what} are left out."
        if what.startswith("only")
        else f"{first.name} and {second.name}: {count} samples {what}; they are left out."
        for what, count in counts.items()
        if count
    ]
    return same, notes


def _key(sample: EvaluatedSample) -> tuple[object, ...]:
    return tuple(getattr(sample, field) for field in _PAIRED_FIELDS)


def _judge_notes(first: StoredEvaluation, second: StoredEvaluation) -> list[str]:
    ours, theirs = first.judge_keys, second.judge_keys
    return [
        f"{first.name} and {second.name}: the judge {name} is not the same in both (another model, prompt or word "
        "list), so a change may be the judge's; safemirage rescore judges both alike."
        for name in ours.keys() & theirs.keys()
        if ours[name] != theirs[name]
    ]


def _protocol_notes(first: StoredEvaluation, second: StoredEvaluation) -> list[str]:
    return [
        f"{one.name}: its own table is by the protocol {one.protocol}; here all are compared by the protocol corrected, "
        "so what is unscored is left out."
        for one in (first, second)
        if one.protocol != "corrected"
    ]


def _condition_changes(
    first: StoredEvaluation,
    second: StoredEvaluation,
    condition: str,
    pairs: Sequence[SamplePair],
    notes: list[str],
) -> list[Change]:
    changes = []
    for metric in METRICS:
        judge = first.judge(metric)
        if judge is None or SUBSETS[metric] != pairs[0][0].subset:
            continue
        if any(all(verdict.judge != judge for verdict in other.verdicts) for _, other in pairs):
            notes.append(
                f"{second.name}: was not judged by {judge}, which {metric} of {condition} needs."
            )
            continue
        if change := _change(first.name, second.name, metric, judge, pairs):
            changes.append(change)
        else:
            notes.append(
                f"{first.name} and {second.name}: no {metric} of {condition} is scored in both."
            )
    return changes


def _change(
    first: str, second: str, metric: Metric, judge: str, pairs: Sequence[SamplePair]
) -> Change | None:
    """The change of one rate; None where nothing is scored on both sides."""
    by_question = metric == "asr"
    units: dict[str, list[SamplePair]] = {}
    for pair in pairs:
        units.setdefault(pair[0].group_id if by_question else pair[0].sample_id, []).append(pair)
    outcomes: list[Pair] = []
    for name, members in units.items():
        left, right = (
            outcome([pair[side] for pair in members], judge, COUNTED[metric]) for side in (0, 1)
        )
        if left is not None and right is not None:
            outcomes.append(Pair(name, cluster_of(members[0][0]), left, right))
    if not outcomes:
        return None
    change = compare(outcomes)
    counts_now = {pair.id: pair.second for pair in outcomes}
    independent = by_question or len({one.group_id for one, _ in pairs}) == len(pairs)
    return Change(
        first=first,
        second=second,
        condition=pairs[0][0].condition,
        metric=metric,
        judge=judge,
        unit="questions" if independent else "answers",
        n=change.n,
        first_value=sum(pair.first for pair in outcomes) / change.n,
        second_value=sum(pair.second for pair in outcomes) / change.n,
        difference=change.difference,
        low=change.low,
        high=change.high,
        p_value=change.p_value if independent else None,
        p_holm=None,
        flips=tuple(
            Flip(
                unit=name,
                counts_now=counts_now[name],
                first=tuple(pair[0] for pair in units[name]),
                second=tuple(pair[1] for pair in units[name]),
            )
            for name in change.flipped
        ),
    )


def _adjusted(changes: Sequence[Change]) -> list[Change]:
    tested = {place: one.p_value for place, one in enumerate(changes) if one.p_value is not None}
    adjusted: Mapping[int, float] = dict(zip(tested, holm(list(tested.values())), strict=True))
    return [replace(one, p_holm=adjusted.get(place)) for place, one in enumerate(changes)]
