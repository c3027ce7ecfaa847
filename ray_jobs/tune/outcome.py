"""What came of a search: its trials, the Pareto front, and the point that is chosen from it."""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any

import numpy as np

from ray_jobs.cluster.failures import Failure
from safemirage.config.loading.load import ConfigError, to_tree
from safemirage.config.plan import point_overrides
from safemirage.config.search import ObjectiveConfig, RateConfig, SearchConfig
from safemirage.evaluation.metrics.pareto import hypervolume, knee, pareto_front
from safemirage.evaluation.metrics.rates import headline
from safemirage.evaluation.reports.grid import Grid
from safemirage.runs import (
    SearchOutcome,
    SeedRates,
    SeedResult,
    TrialOutcome,
    TrialResult,
    costs_of,
    excess_of,
)
from safemirage.store.records import Row
from safemirage.text.numbers import percent


class ObjectiveError(ConfigError):
    """An objective that the rows of an evaluation do not give."""


class SearchFailed(RuntimeError):
    """A search of which no trial succeeded, or whose trials the machine took away."""


def check_objectives(
    rates: Sequence[RateConfig], *, subsets: Mapping[str, str], metrics: Collection[str]
) -> None:
    """Refuses, before anything is trained, objectives and constraints that no evaluation can give.

    Args:
        subsets: `safe` or `unsafe` for each condition of the suite.
        metrics: the rates that the judges measure.

    Raises:
        ObjectiveError: lists every condition and metric that there is not.
    """
    problems = []
    for item in rates:
        where = item.key
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
    rows: Sequence[Mapping[str, Any]], wanted: Sequence[RateConfig]
) -> dict[str, float]:
    """The objectives, or the rates of constraints, of one model from the rows of its evaluation, by name.

    Raises:
        ObjectiveError: a row is missing, or has no value because nothing in it could be scored.
    """
    rates: dict[tuple[str, str], Any] = {}
    for row in rows:  # where several judges measure a rate, the first one counts
        rates.setdefault((row["condition"], row["metric"]), row["value"])
    result = {}
    for item in wanted:
        values = [_rate(rates, condition, item) for condition in item.conditions]
        result[item.name] = item.worst(values) if item.over == "worst" else fmean(values)
    return result


def bands_of(
    found: Sequence[SeedResult], objectives: Sequence[ObjectiveConfig]
) -> dict[str, tuple[float, float]]:
    """Bounds of each objective: what the bounds of its rates come to, on the worst seed. Taking the largest, the smallest or
    the mean keeps the order of bounds, so that they hold the objective."""
    sides: list[dict[str, float]] = []
    for side in ("low", "high"):
        rows = [
            [{**to_tree(row), "value": getattr(row, side)} for row in one.rows] for one in found
        ]
        sides.append(
            worst_objectives([objective_values(one, objectives) for one in rows], objectives)
        )
    low, high = sides
    return {name: (low[name], high[name]) for name in low}


def worst_objectives(
    found: Sequence[Mapping[str, float]], wanted: Sequence[RateConfig]
) -> dict[str, float]:
    """Each rate on that seed of several where it is worst, by name."""
    return {item.name: item.worst(one[item.name] for one in found) for item in wanted}


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


def rates_by_condition(rows: Iterable[Row]) -> dict[str, float]:
    """`condition/metric` -> rate; where judges share a rate the first one counts."""
    found = headline(list(rows))
    return {f"{row.condition}/{row.metric}": row.value for row in found if row.value is not None}


def outcome_grid(outcome: SearchOutcome) -> Grid:
    """The table of trials, a line each: the front is marked `*`, the knee `>`."""
    rates = [{**(one.objectives or {}), **one.constraints} for one in outcome.trials]
    names = list(dict.fromkeys(name for one in rates for name in one))
    lines = []
    for trial, values in zip(outcome.trials, rates, strict=True):
        mark = "*" if trial.number in outcome.front else ""
        failed = (trial.error or "").partition("\n")[0]
        lines.append(
            [
                ">" if trial.number == outcome.knee else mark,
                str(trial.number),
                *(_shown(name, values, trial.at_seeds) for name in names),
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
            *_test_notes(outcome),
        ],
        keys=2,
    )


def _test_notes(outcome: SearchOutcome) -> list[str]:
    if outcome.test is None:
        return []
    rates = [
        f"{row.condition} {row.metric} {percent(row.value)} (n={row.n})"
        for row in headline(outcome.test.rows)
        if row.value is not None
    ]
    before = f"; {outcome.test.earlier} points were scored on it before" * (
        outcome.test.earlier > 0
    )
    return [f"the chosen point on the test split: {', '.join(rates)}{before}"]


def _shown(name: str, values: Mapping[str, float], at_seeds: Sequence[SeedRates]) -> str:
    """A rate, with its smallest and largest over the seeds where the point was repeated."""
    if name not in values:
        return ""
    every = [one.objectives.get(name, one.constraints.get(name, 0.0)) for one in at_seeds]
    return f"{values[name]:.4f}" + (f" ({min(every):.4f} to {max(every):.4f})" if every else "")


def judge_trials(
    run_id: str, trials: Sequence[TrialOutcome], config: SearchConfig
) -> SearchOutcome:
    """Front and choice of the trials that finished and keep the constraints.

    Raises:
        SearchFailed: none did.
    """
    objectives = config.objectives
    finished: dict[str, TrialOutcome] = {}
    for trial in trials:
        if trial.state == "finished":
            finished.setdefault(trial.run_id, trial)
    if not finished:
        errors = sorted({(trial.error or "").partition("\n")[0] for trial in trials})
        raise SearchFailed(f"search {run_id}: none of its {len(trials)} trials succeeded: {errors}")
    excess = {key: excess_of(one.constraints, config.constraints) for key, one in finished.items()}
    candidates = [one for key, one in finished.items() if not excess[key]]
    if not candidates:
        nearest = finished[min(excess, key=excess.__getitem__)]
        raise SearchFailed(
            f"search {run_id}: none of its {len(finished)} trials keeps the constraints; the nearest is trial "
            f"{nearest.number} with {nearest.constraints}: {' '.join(point_overrides(nearest.overrides))}; widen the space, "
            "give more trials, or loosen a bound (what was trained is not trained again)"
        )
    points = [trial.objectives or {} for trial in candidates]
    costs = costs_of(points, objectives)
    worst = costs_of([{item.name: 1 - item.ideal for item in objectives}], objectives)[0]
    return SearchOutcome(
        run_id=run_id,
        trials=tuple(trials),
        front=tuple(candidates[index].number for index in pareto_front(costs)),
        knee=candidates[_nearest(points, config)].number,
        hypervolume=hypervolume(costs, worst.tolist()),
    )


def choose_again(
    outcome: SearchOutcome, repeats: Mapping[int, TrialResult | Failure], config: SearchConfig
) -> SearchOutcome:
    """The outcome with the front's points at further seeds, and one of them chosen by its mean over all seeds.

    Args:
        repeats: number of a trial of the front -> what came of it at `front_seeds`.

    Raises:
        SearchFailed: each point failed at one of these seeds, or its mean is beyond a bound.
    """
    trials, means = [], {}
    for trial in outcome.trials:
        again = repeats.get(trial.number)
        if isinstance(again, Failure):
            trials.append(replace(trial, repeat_error=again.reason))
        elif again is None:
            trials.append(trial)
        else:
            found = (*trial.at_seeds, *rates_at_seeds(again))
            trials.append(replace(trial, at_seeds=found))
            bounds = _mean(one.constraints for one in found)
            if not excess_of(bounds, config.constraints):
                means[trial.number] = _mean(one.objectives for one in found)
    if not means:
        raise SearchFailed(
            f"search {outcome.run_id}: none of the {len(repeats)} points of the front holds at front_seeds "
            f"{list(config.front_seeds)}: each fails there, or is beyond a bound in the mean"
        )
    chosen = list(means)[_nearest(list(means.values()), config)]
    return replace(outcome, trials=tuple(trials), knee=chosen)


def rates_at_seeds(result: TrialResult) -> tuple[SeedRates, ...]:
    """What a point came to at each seed, without the rows."""
    return tuple(
        SeedRates(seed=one.seed, objectives=one.objectives, constraints=one.constraints)
        for one in result.at_seeds
    )


def _mean(found: Iterable[Mapping[str, float]]) -> dict[str, float]:
    rates = list(found)
    return {name: fmean(one[name] for one in rates) for name in rates[0]}


def _nearest(points: Sequence[Mapping[str, float]], config: SearchConfig) -> int:
    """Index of the point nearest to the ideal, each objective's distance times its weight."""
    objectives = config.objectives
    weights = np.array([config.weights.get(item.name, 1.0) for item in objectives])
    ideal = costs_of([{item.name: item.ideal for item in objectives}], objectives)[0]
    return knee(costs_of(points, objectives) * weights, (ideal * weights).tolist())


def _rate(rates: Mapping[tuple[str, str], Any], condition: str, wanted: RateConfig) -> float:
    key = (condition, wanted.metric)
    if key not in rates:
        raise ObjectiveError(
            f"{wanted.key}: the evaluation gives no {wanted.metric} of condition {condition!r}; "
            f"it gives {sorted(rates)}"
        )
    value = rates[key]
    if value is None or not math.isfinite(value):
        raise ObjectiveError(
            f"{wanted.key}: {wanted.metric} of condition {condition!r} is {value!r}: none of its "
            "answers could be scored"
        )
    return float(value)
