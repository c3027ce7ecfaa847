"""The figures of a search for MLflow: its front, how it grew with what was spent, what mattered."""

from collections.abc import Mapping
from itertools import combinations

import numpy as np
from matplotlib.figure import Figure

from safemirage.config.search import SearchConfig
from safemirage.evaluation.metrics.pareto import hypervolume
from safemirage.runs import SearchOutcome, TrialOutcome, costs_of, excess_of

_PANEL_IN = 4.5


def figures_of(
    outcome: SearchOutcome, config: SearchConfig, importances: Mapping[str, Mapping[str, float]]
) -> dict[str, Figure]:
    """The figures by name; one that would be empty is left out."""
    figures = {"hypervolume": hypervolume_figure(outcome, config)}
    if len(config.objectives) > 1:
        figures["front"] = front_figure(outcome, config)
    if importances:
        figures["importances"] = importances_figure(importances)
    return figures


def front_figure(outcome: SearchOutcome, config: SearchConfig) -> Figure:
    """Every two objectives against each other: trials, those beyond a bound, the front with its bands, the chosen one."""
    pairs = list(combinations(config.objectives, 2))
    figure = Figure(figsize=(_PANEL_IN * len(pairs), _PANEL_IN), layout="constrained")
    finished = [trial for trial in outcome.trials if trial.objectives is not None]
    keeps = {one.number: not excess_of(one.constraints, config.constraints) for one in finished}
    for axes, (x, y) in zip(figure.subplots(1, len(pairs), squeeze=False)[0], pairs, strict=True):
        for label, marker, trials in (
            ("beyond a bound", "x", [one for one in finished if not keeps[one.number]]),
            ("trial", "o", [one for one in finished if keeps[one.number]]),
            ("front", "D", [one for one in finished if one.number in outcome.front]),
            ("chosen", "*", [outcome.knee_trial]),
        ):
            places = np.array([_at(one, x.name, y.name) for one in trials]).reshape(-1, 2)
            axes.plot(*places.T, marker, label=label, markersize=14 if marker == "*" else 6)
        for one in (one for one in finished if one.number in outcome.front):
            here = _at(one, x.name, y.name)
            errors = [
                _error(one, name, at) for name, at in zip((x.name, y.name), here, strict=True)
            ]
            axes.errorbar(*here, xerr=errors[0], yerr=errors[1], color="grey", alpha=0.5, zorder=0)
        axes.set(xlabel=f"{x.name} ({x.direction})", ylabel=f"{y.name} ({y.direction})")
        axes.legend()
    return figure


def hypervolume_figure(outcome: SearchOutcome, config: SearchConfig) -> Figure:
    """The share of the unit box that the trials so far dominate, over the hours that they took together."""
    worst = costs_of([{item.name: 1 - item.ideal for item in config.objectives}], config.objectives)
    spent, hours, reached, points = 0.0, [0.0], [0.0], []
    for trial in outcome.trials:
        spent += trial.hours
        if trial.objectives is not None and not excess_of(trial.constraints, config.constraints):
            points.append(trial.objectives)
        hours.append(spent)
        costs = costs_of(points, config.objectives)
        reached.append(hypervolume(costs, worst[0].tolist()) if points else 0.0)
    figure = Figure(figsize=(_PANEL_IN * 1.5, _PANEL_IN), layout="constrained")
    axes = figure.subplots()
    axes.step(hours, reached, where="post")
    axes.set(xlabel="hours of trials", ylabel="hypervolume of the front", ylim=(0, 1))
    return figure


def importances_figure(importances: Mapping[str, Mapping[str, float]]) -> Figure:
    figure = Figure(figsize=(_PANEL_IN * len(importances), _PANEL_IN), layout="constrained")
    panels = figure.subplots(1, len(importances), squeeze=False)[0]
    for axes, (name, paths) in zip(panels, importances.items(), strict=True):
        ordered = sorted(paths.items(), key=lambda item: item[1])
        axes.barh([path for path, _ in ordered], [share for _, share in ordered])
        axes.set(title=name, xlabel="importance")
    return figure


def _at(trial: TrialOutcome, x: str, y: str) -> tuple[float, float]:
    assert trial.objectives is not None, "only finished trials are drawn"
    return trial.objectives[x], trial.objectives[y]


def _error(trial: TrialOutcome, name: str, value: float) -> list[list[float]] | None:
    """The distances from a value to the bounds of its band, as matplotlib takes them."""
    if name not in trial.bands:
        return None
    low, high = trial.bands[name]
    return [[max(0.0, value - low)], [max(0.0, high - value)]]
