"""Studies as the store has them: a run of kind `search`, and its trials as runs below it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from safemirage.evaluation.pareto import pareto_front
from safemirage.store import Store
from safemirage.store.runs import RunRecord
from serve_app.backend import Study, Trial
from serve_app.catalogue import not_found

Directions = Mapping[str, Literal["min", "max"]]


def list_studies(store: Store) -> list[Study]:
    """Every search, newest first."""
    trials: dict[str | None, list[RunRecord]] = {}
    for record in store.runs.list(kind="trial"):
        trials.setdefault(record.parent_id, []).append(record)
    searches = store.runs.list(kind="search")
    return [_study(search, trials.get(search.id, [])) for search in reversed(searches)]


def find_study(store: Store, study_id: str) -> Study:
    """Raises ApiError (404)."""
    search = store.runs.get(study_id)
    if search is None or search.kind != "search":
        known = [record.id for record in store.runs.list(kind="search")]
        raise not_found("study", study_id, known)
    return _study(search, store.runs.list(kind="trial", parent_id=study_id))


def mark_front(trials: Sequence[Trial], directions: Directions) -> list[Trial]:
    """The trials with `front` set on those that no other finished trial dominates."""
    finished = [
        index
        for index, trial in enumerate(trials)
        if directions and trial.state == "finished" and directions.keys() <= trial.objectives.keys()
    ]
    if not finished:
        return list(trials)
    signs = {name: 1.0 if direction == "min" else -1.0 for name, direction in directions.items()}
    costs = np.array(
        [
            [sign * trials[index].objectives[name] for name, sign in signs.items()]
            for index in finished
        ]
    )
    front = {finished[row] for row in pareto_front(costs)}
    return [replace(trial, front=index in front) for index, trial in enumerate(trials)]


def _study(search: RunRecord, records: Sequence[RunRecord]) -> Study:
    directions = _directions(search.config)
    return Study(
        id=search.id,
        name=search.name,
        state=search.state,
        is_live=search.is_live,
        directions=directions,
        trials=mark_front([_trial(record) for record in records], directions),
        progress=search.progress,
        error=search.error,
        created_at=search.created_at,
        updated_at=search.updated_at,
    )


def _directions(config: Mapping[str, Any]) -> Directions:
    return {item["name"]: item["direction"] for item in config.get("objectives", [])}


def _trial(record: RunRecord) -> Trial:
    objectives = (record.result or {}).get("objectives", {})
    return Trial(
        id=record.id,
        state=record.state,
        parameters=record.config.get("overrides", {}),
        objectives={name: float(value) for name, value in objectives.items()},
        front=False,
        error=record.error,
        progress=record.progress,
    )
