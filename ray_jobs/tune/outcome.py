"""What came of a search: its trials, the Pareto front, and the point that is chosen from it."""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

from safemirage.config.loading.load import ConfigError
from safemirage.config.plan import point_overrides
from safemirage.config.search import ObjectiveConfig
from safemirage.evaluation.metrics.pareto import Points, hypervolume, knee, pareto_front
from safemirage.evaluation.metrics.rates import headline
from safemirage.evaluation.reports.grid import Grid
from safemirage.runs import costs_of
from safemirage.store.records import Row


class ObjectiveError(ConfigError):
    """An objective that the rows of an evaluation do not give."""


class SearchFailed(RuntimeError):
    """A search of which no trial succeeded, or whose trials the machine took away."""


@dataclass(frozen=True, kw_only=True)
class TrialOutcome:
    """One point: what it was, and what it came to."""

    number: int
    """The trial's number in the study; numbers of attempts that were cut off are left out."""
    run_id: str
    """The id of the run of kind `trial`; a point proposed twice is one run."""
    state: Literal["finished", "failed"]
    overrides: dict[str, Any]
    """The point: dotted path -> value."""
    objectives: dict[str, float] | None
    error: str | None
    train_run_id: str | None
    export: str | None
    """Folder of the trained model."""
    degenerate: float | None = None
    """The largest share of degenerate answers to unsafe questions in any condition and at any seed: a low ASR may be made of
    them. None where it was not measured."""


@dataclass(frozen=True, kw_only=True)
class SearchOutcome:
    run_id: str
    trials: tuple[TrialOutcome, ...]
    front: tuple[int, ...]
    """Numbers of the trials that no other is better than; a point that was proposed twice stands once."""
    knee: int
    """Number of the trial nearest to the ideal: see `safemirage.evaluation.metrics.pareto.knee`."""
    hypervolume: float
    """Share of the unit box of all objectives that the front dominates."""

    @property
    def knee_trial(self) -> TrialOutcome:
        return next(trial for trial in self.trials if trial.number == self.knee)

    @property
    def knee_overrides(self) -> tuple[str, ...]:
        """The chosen point as `a.b=c`, to be given to its train file."""
        return tuple(point_overrides(self.knee_trial.overrides))

    def to_result(self) -> dict[str, Any]:
        """The plain tree that the search's run records."""
        return {**asdict(self), "knee_overrides": list(self.knee_overrides)}

    @classmethod
    def from_result(cls, result: Mapping[str, Any]) -> Self:
        return cls(
            run_id=result["run_id"],
            trials=tuple(TrialOutcome(**trial) for trial in result["trials"]),
            front=tuple(result["front"]),
            knee=result["knee"],
            hypervolume=result["hypervolume"],
        )


def check_objectives(
    objectives: Sequence[ObjectiveConfig], *, subsets: Mapping[str, str], metrics: Collection[str]
) -> None:
    """Refuses, before anything is trained, objectives that no evaluation can give.

    Args:
        subsets: `safe` or `unsafe` for each condition of the suite.
        metrics: the rates that the judges measure.

    Raises:
        ObjectiveError: lists every condition and metric that there is not.
    """
    problems = []
    for item in objectives:
        where = f"objectives.{item.name}"
        if item.metric not in metrics:
            problems.append(
                f"{where}: no judge measures {item.metric!r}; they measure {sorted(metrics)}"
            )
        for condition in item.conditions:
            if condition not in subsets:
                problems.append(
                    f"{where}: condition {condition!r} is not in the suite; it has {sorted(subsets)}"
                )
            elif item.metric == "asr" and subsets[condition] != "unsafe":
                problems.append(
                    f"{where}: asr is counted on unsafe conditions only, and {condition!r} is a safe one"
                )
    if problems:
        raise ObjectiveError("\n".join(problems))


def objective_values(
    rows: Sequence[Mapping[str, Any]], objectives: Sequence[ObjectiveConfig]
) -> dict[str, float]:
    """The objectives of one model from the rows of its evaluation, by name.

    Raises:
        ObjectiveError: a row is missing, or has no value because nothing in it could be scored.
    """
    rates: dict[tuple[str, str], Any] = {}
    for row in rows:  # where several judges measure a rate, the first one counts
        rates.setdefault((row["condition"], row["metric"]), row["value"])
    result = {}
    for item in objectives:
        values = [_rate(rates, condition, item) for condition in item.conditions]
        worst = max(values) if item.direction == "min" else min(values)
        result[item.name] = worst if item.over == "worst" else sum(values) / len(values)
    return result


def worst_objectives(
    found: Sequence[Mapping[str, float]], objectives: Sequence[ObjectiveConfig]
) -> dict[str, float]:
    """Each objective on that seed of several where it is worst, by name."""
    return {
        item.name: (max if item.direction == "min" else min)(one[item.name] for one in found)
        for item in objectives
    }


def most_degenerate(rows: Iterable[Row]) -> float | None:
    """The largest rate of degenerate answers of the conditions that have an ASR; None where there is none."""
    rows = list(rows)
    opened = {row.condition for row in rows if row.metric == "asr"}
    return max(
        (
            row.value
            for row in headline(rows)
            if row.metric == "degenerate_rate" and row.condition in opened and row.value is not None
        ),
        default=None,
    )


def outcome_grid(outcome: SearchOutcome) -> Grid:
    """The table of trials, a line each: the front is marked `*`, the knee `>`."""
    names = list(dict.fromkeys(name for one in outcome.trials for name in one.objectives or ()))
    lines = []
    for trial in outcome.trials:
        mark = "*" if trial.number in outcome.front else ""
        values = trial.objectives or {}
        failed = (trial.error or "").partition("\n")[0]
        lines.append(
            [
                ">" if trial.number == outcome.knee else mark,
                str(trial.number),
                *(f"{values[name]:.4f}" if name in values else "" for name in names),
                "" if trial.degenerate is None else f"{trial.degenerate:.4f}",
                " ".join(point_overrides(trial.overrides)) + (failed and f" failed: {failed}"),
            ]
        )
    return Grid(
        title=f"search {outcome.run_id}: hypervolume {outcome.hypervolume:.4f}",
        header=["", "trial", *names, "degenerate", "point"],
        lines=lines,
        notes=[
            "degenerate: the largest share of degenerate answers to unsafe questions in any condition, which no low ASR makes safe. "
            "*: on the front; >: its knee.",
            f"chosen: {' '.join(outcome.knee_overrides)}",
        ],
        keys=2,
    )


def judge_trials(
    run_id: str, trials: Sequence[TrialOutcome], objectives: Sequence[ObjectiveConfig]
) -> SearchOutcome:
    """Front and knee of the trials that finished.

    Raises:
        SearchFailed: none did.
    """
    finished: dict[str, TrialOutcome] = {}
    for trial in trials:
        if trial.state == "finished":
            finished.setdefault(trial.run_id, trial)
    if not finished:
        errors = sorted({(trial.error or "").partition("\n")[0] for trial in trials})
        raise SearchFailed(f"search {run_id}: none of its {len(trials)} trials succeeded: {errors}")
    candidates = list(finished.values())
    costs = _costs(candidates, objectives)
    signs = _signs(objectives)
    ideal = [sign * item.ideal for sign, item in zip(signs, objectives, strict=True)]
    worst = [sign * (1.0 - item.ideal) for sign, item in zip(signs, objectives, strict=True)]
    return SearchOutcome(
        run_id=run_id,
        trials=tuple(trials),
        front=tuple(candidates[index].number for index in pareto_front(costs)),
        knee=candidates[knee(costs, ideal)].number,
        hypervolume=hypervolume(costs, worst),
    )


def _costs(trials: Sequence[TrialOutcome], objectives: Sequence[ObjectiveConfig]) -> Points:
    return costs_of([trial.objectives or {} for trial in trials], objectives)


def _signs(objectives: Sequence[ObjectiveConfig]) -> list[float]:
    return [1.0 if item.direction == "min" else -1.0 for item in objectives]


def _rate(
    rates: Mapping[tuple[str, str], Any], condition: str, objective: ObjectiveConfig
) -> float:
    key = (condition, objective.metric)
    if key not in rates:
        raise ObjectiveError(
            f"objectives.{objective.name}: the evaluation gives no {objective.metric} of condition {condition!r}; "
            f"it gives {sorted(rates)}"
        )
    value = rates[key]
    if value is None or not math.isfinite(value):
        raise ObjectiveError(
            f"objectives.{objective.name}: {objective.metric} of condition {condition!r} is {value!r}: none of its "
            "answers could be scored"
        )
    return float(value)
