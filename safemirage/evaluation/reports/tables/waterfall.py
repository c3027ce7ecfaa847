"""The same answers counted in several ways: what each change of judge or protocol does to each number.

Evaluations that hold the same answers (one and its rescored twins) are steps, in the order they are given in. Nothing but
judge or protocol differs between two steps, so that alone explains a difference. Where neither differs there is no step:
two models with the same answers, counted by the same judge and protocol, are one measurement.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from safemirage.config.loading.identity import digest_of
from safemirage.config.rates import Metric
from safemirage.evaluation.metrics.evaluation import StoredEvaluation
from safemirage.evaluation.metrics.rates import SUBSETS, Row, headline


@dataclass(frozen=True, kw_only=True)
class Step:
    """One number by one judge under one protocol."""

    name: str
    evaluation: str
    protocol: str
    row: Row
    change: float | None
    """The change from the step before, as rates in 0..1; None for the first, and where either was not scored."""


@dataclass(frozen=True, kw_only=True)
class Waterfall:
    condition: str
    metric: Metric
    steps: tuple[Step, ...]


def waterfalls(evaluations: Sequence[StoredEvaluation]) -> list[Waterfall]:
    """One a condition and metric of the main table that is counted in at least two ways from the same answers."""
    groups: dict[str, list[StoredEvaluation]] = {}
    for one in evaluations:
        groups.setdefault(_answers_digest(one), []).append(one)
    return [
        found
        for members in groups.values()
        for found in _of_one_model(members)
        if len(found.steps) > 1
    ]


def _answers_digest(evaluation: StoredEvaluation) -> str:
    return digest_of(
        [[one.sample_id, one.question, one.image, one.answer] for one in evaluation.samples]
    )


def _of_one_model(members: Sequence[StoredEvaluation]) -> list[Waterfall]:
    subsets = {sample.condition: sample.subset for sample in members[0].samples}
    steps: dict[tuple[str, Metric], list[Step]] = {}
    seen: dict[tuple[str, Metric], set[str]] = {}
    for one in members:
        for row in headline(one.rows):
            if subsets.get(row.condition) != SUBSETS.get(row.metric):
                continue
            way = digest_of([row.judge, one.judge_keys.get(row.judge), one.protocol])
            if way in seen.setdefault((row.condition, row.metric), set()):
                continue
            seen[row.condition, row.metric].add(way)
            before = steps.setdefault((row.condition, row.metric), [])
            last = before[-1].row.value if before else None
            change = None if last is None or row.value is None else row.value - last
            before.append(
                Step(
                    name=one.name, evaluation=one.id, protocol=one.protocol, row=row, change=change
                )
            )
    return [
        Waterfall(condition=condition, metric=metric, steps=tuple(found))
        for (condition, metric), found in steps.items()
    ]
