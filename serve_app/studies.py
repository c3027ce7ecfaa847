"""Studies as the store has them: a run of kind `search`, and its trials as runs below it."""

from collections.abc import Sequence
from dataclasses import replace

from safemirage.config.loading.load import ConfigError
from safemirage.config.search import SearchConfig
from safemirage.evaluation.metrics.pareto import pareto_front
from safemirage.runs import StudyConfig, TrialConfig, TrialResult, costs_of, excess_of, read_record
from safemirage.store import Store
from safemirage.store.runs import RunRecord
from serve_app.catalogue import not_found
from serve_app.resources import Study, Trial


def list_studies(store: Store) -> list[Study]:
    """Every search, newest first."""
    trials: dict[str | None, list[RunRecord]] = {}
    for record in store.runs.list(kind="trial"):
        trials.setdefault(record.parent_id, []).append(record)
    searches = store.runs.list(kind="search")
    return [_study(search, trials.get(search.id, [])) for search in reversed(searches)]


def find_study(store: Store, study_id: str) -> Study:
    """The search of this id. Raises ApiError (404)."""
    search = store.runs.get(study_id)
    if search is None or search.kind != "search":
        known = [record.id for record in store.runs.list(kind="search")]
        raise not_found("study", study_id, known)
    return _study(search, store.runs.list(kind="trial", parent_id=study_id))


def mark_front(trials: Sequence[Trial], search: SearchConfig) -> list[Trial]:
    """The trials with `front` set on those that keep the constraints and that no other such trial dominates."""
    objectives, constraints = search.objectives, search.constraints
    wanted = {item.name for item in objectives}
    finished = [
        index
        for index, trial in enumerate(trials)
        if trial.state == "finished"
        and wanted <= trial.objectives.keys()
        and {item.name for item in constraints} <= trial.constraints.keys()
        and not excess_of(trial.constraints, constraints)
    ]
    if not finished:
        return list(trials)
    costs = costs_of([trials[index].objectives for index in finished], objectives)
    front = {finished[row] for row in pareto_front(costs)}
    return [replace(trial, front=index in front) for index, trial in enumerate(trials)]


def _study(search: RunRecord, records: Sequence[RunRecord]) -> Study:
    config, error = _config(search)
    trials = [_trial(record) for record in records]
    return Study(
        id=search.id,
        name=search.name,
        state=search.state,
        is_live=search.is_live,
        directions={item.name: item.direction for item in config.objectives} if config else {},
        bounds={item.name: item.bound for item in config.constraints} if config else {},
        trials=mark_front(trials, config) if config else trials,
        progress=search.progress,
        error=search.error or error,
        created_at=search.created_at,
        updated_at=search.updated_at,
    )


def _config(search: RunRecord) -> tuple[SearchConfig | None, str | None]:
    """The search's config, or none and why: a record of another version spoils no listing."""
    try:
        return read_record(StudyConfig, search.config, of=search.id).search, None
    except ConfigError as error:
        return None, str(error)


def _trial(record: RunRecord) -> Trial:
    trial = Trial(id=record.id, state=record.state, error=record.error, progress=record.progress)
    try:
        config = read_record(TrialConfig, record.config, of=record.id)
        trial = replace(trial, parameters=config.overrides)
        if record.state == "finished":
            result = read_record(TrialResult, record.result, of=record.id)
            trial = replace(trial, objectives=result.objectives, constraints=result.constraints)
    except ConfigError as error:
        return replace(trial, error=str(error))
    return trial
