"""What every probe ends in: several states of one export, each evaluated through the store and compared with the first."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import asdict, dataclass, field
from typing import Any

from safemirage.config.evaluate import EvaluateConfig
from safemirage.config.generators import GeneratorConfig
from safemirage.evaluation.errors import EvaluationError
from safemirage.evaluation.generators import Generator
from safemirage.evaluation.generators.asking import ModelCalls
from safemirage.evaluation.generators.build import open_generator
from safemirage.evaluation.metrics.changes import Comparison, compare_evaluations
from safemirage.evaluation.metrics.rates import StoredEvaluation
from safemirage.evaluation.run.archive import load_evaluations
from safemirage.evaluation.run.matrix import run_many
from safemirage.progress import OnNamedProgress
from safemirage.store.database import Store
from safemirage.store.records import Row

OpenModel = Callable[[GeneratorConfig], AbstractAsyncContextManager[Generator]]


@dataclass(frozen=True, kw_only=True)
class Point:
    """One state of the export."""

    evaluate: EvaluateConfig
    """The evaluation, under the name that tables call the state by."""
    says: str
    """What was done to the export, in words."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What was done to the export, for programs."""

    @property
    def name(self) -> str:
        return self.evaluate.name


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The points of a probe with their finished evaluations, in one order; the first is the export as it is."""

    probe: str
    points: Sequence[Point]
    evaluations: Sequence[StoredEvaluation]
    comparison: Comparison
    """Each further point with the first, question by question: exact McNemar, Holm over all of them."""
    calls: ModelCalls

    @property
    def rows(self) -> list[Row]:
        return [row for one in self.evaluations for row in one.rows]

    def tree(self) -> dict[str, Any]:
        """The probe as JSON; the samples stay in the store."""
        return {
            "probe": self.probe,
            "points": [
                {
                    "name": point.name,
                    "says": point.says,
                    **point.settings,
                    "evaluation": one.id,
                    "generator": one.record.generator,
                    "rows": [asdict(row) for row in one.rows],
                }
                for point, one in zip(self.points, self.evaluations, strict=True)
            ],
            "changes": [
                {key: value for key, value in asdict(change).items() if key != "flips"}
                for change in self.comparison.changes
            ],
            "notes": list(self.comparison.notes),
            "calls": asdict(self.calls),
        }


async def measure(
    probe: str,
    points: Sequence[Point],
    *,
    store: Store,
    on_progress: OnNamedProgress,
    open_model: OpenModel = open_generator,
) -> Measured:
    """Every point evaluated, one model open at a time; what the store knows is not asked again.

    Raises:
        EvaluationError: points that could not be measured, with the reason of each; the others are in the store.
    """
    outcomes = await run_many(
        [point.evaluate for point in points],
        store=store,
        open_model=open_model,
        engines=1,
        on_progress_of=lambda config: lambda done, total: on_progress(config.name, done, total),
    )
    ended = [one.evaluation for one in outcomes]
    failed = [
        f"{one.config.name}: {one.error or (one.evaluation and one.evaluation.state)}"
        for one in outcomes
        if one.evaluation is None or one.evaluation.state != "finished"
    ]
    if failed:
        raise EvaluationError("\n".join(["the probe is not complete:", *failed]))
    evaluations = load_evaluations(store, [one.id for one in ended if one is not None])
    return Measured(
        probe=probe,
        points=points,
        evaluations=evaluations,
        comparison=compare_evaluations(evaluations),
        calls=ModelCalls(
            answers=sum(one.calls.answers for one in outcomes),
            verdicts=sum(one.calls.verdicts for one in outcomes),
        ),
    )
