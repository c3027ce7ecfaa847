"""The Optuna study of a search: its storage, its queue of points, and what a restart makes of it.

The study lives in a database of its own that optuna-dashboard opens, and the sampler reads its history from there.
A search that was cut off resumes the same study: points that were under way wait again, and the sampler proposes
what it would have proposed. A trial that the machine took away is never a failed one.
"""

import json
import math
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, assert_never

import numpy as np
import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.exceptions import ExperimentalWarning
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState
from ray.tune.search.optuna import OptunaSearch
from sqlalchemy import URL

from ray_jobs.cluster.failures import Failure
from safemirage.config.loading.identity import digest_of
from safemirage.config.search import (
    ChoiceConfig,
    DomainConfig,
    IntConfig,
    LogUniformConfig,
    ObjectiveConfig,
    Point,
    RandomConfig,
    Scalar,
    SearchConfig,
    TPEConfig,
    UniformConfig,
    Value,
)
from safemirage.databases import creation_turn, full, sqlite_url
from safemirage.settings import Settings

_RESUMES = "resumes"
"""Attribute of a trial that tries the point of another again: that trial's number."""
_FAILURE = "failure"
"""Attribute of a failed trial: whose fault it was, and the reason."""
_WARM_START = "warm_start"
_RUN = "run_id"
"""Attribute that names the trial's run in our store, for whoever looks at the study in optuna-dashboard."""
_BUSY_TIMEOUT_S = 60


def studies_url(settings: Settings) -> URL:
    """The database that holds the studies: one in the storage where the store is SQLite, else in the store's own
    PostgreSQL database."""
    if settings.store_url.get_backend_name() == "sqlite":
        return sqlite_url(settings.storage.root / "studies.db")
    return settings.store_url


def open_studies(url: URL) -> RDBStorage:
    """The storage of all studies; optuna-dashboard takes the same URL. Any number of processes may open an empty
    database at once."""
    is_sqlite = url.get_backend_name() == "sqlite"
    options = {"connect_args": {"timeout": _BUSY_TIMEOUT_S}} if is_sqlite else {}
    with creation_turn(url):
        return RDBStorage(full(url), engine_kwargs=options)


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """One point that counts for the search, as the study has it."""

    number: int
    point: Mapping[str, Any]
    state: TrialState
    values: tuple[float, ...] | None
    failure: Failure | None
    """Why it failed; None for a point that did not."""

    @property
    def is_settled(self) -> bool:
        """Whether trying it again would change nothing."""
        of_method = self.failure is not None and self.failure.cause == "method"
        return self.state == TrialState.COMPLETE or of_method


class Study:
    """A search's study. One process at a time may use it, which the lease on the search's run makes sure of."""

    def __init__(self, config: SearchConfig, *, name: str, storage: RDBStorage) -> None:
        self.config = config
        self.name = name
        self.storage = storage
        optuna.logging.set_verbosity(optuna.logging.WARNING)  # our own progress says what it would
        self._study = optuna.create_study(
            study_name=name,
            storage=storage,
            directions=[_DIRECTIONS[item.direction] for item in config.objectives],
            load_if_exists=True,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            self._study.set_metric_names([item.name for item in config.objectives])

    def prepare(self) -> int:
        """Queues the warm start, and again what was cut off or failed by its config. Returns how many points are still
        to do."""
        self._queue_warm_start()
        for trial in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            # No process works on it: the caller holds the search's lease. It keeps its number and its point.
            # Optuna 5.0 tells the storage's number of a trial nowhere else, and `Study.tell` cannot put one back.
            self.storage.set_trial_state_values(trial._trial_id, TrialState.WAITING)
        for proposal in self.proposals():
            if proposal.state == TrialState.FAIL and not proposal.is_settled:
                self._queue_again(proposal)
        return max(0, self.config.trials - sum(item.is_settled for item in self.proposals()))

    def proposals(self) -> list[Proposal]:
        """The points proposed so far in order, each once: as tried the last time."""
        return [
            Proposal(
                number=trial.number,
                point=point_of(trial.params, self.config.space),
                state=trial.state,
                values=tuple(trial.values) if trial.state == TrialState.COMPLETE else None,
                failure=_failure(trial),
            )
            for trial in self._counted()
        ]

    def sampler(self) -> optuna.samplers.BaseSampler:
        """The sampler of the next proposal. Its seed depends on the number of proposals before it alone, so that a
        search that was cut off draws no point twice, and draws what it would have drawn."""
        sequence = np.random.SeedSequence([self.config.seed, len(self._counted())])
        return build_sampler(self.config, seed=int(sequence.generate_state(1)[0]))

    def _counted(self) -> list[FrozenTrial]:
        """The trials that stand for a point each: proposed in full, and not tried again by a later trial."""
        trials = self._study.get_trials(deepcopy=False)
        # A trial that was tried again is replaced by its successor, and counts once.
        again = {trial.user_attrs.get(_RESUMES) for trial in trials}
        return [
            trial
            for trial in trials
            if trial.state != TrialState.WAITING
            and trial.number not in again
            and set(trial.params) == set(self.config.space)
        ]

    def _queue_again(self, proposal: Proposal) -> None:
        self._study.enqueue_trial(
            stored_point(proposal.point), user_attrs={_RESUMES: proposal.number}
        )

    def _queue_warm_start(self) -> None:
        trials = self._study.get_trials(deepcopy=False)
        # By index, so that a point that stands in the warm start twice is tried twice.
        queued = {trial.user_attrs.get(_WARM_START) for trial in trials}
        for index, point in enumerate(self.config.warm_start):
            if index not in queued:
                attributes = {_WARM_START: index}
                self._study.enqueue_trial(stored_point(point), user_attrs=attributes)


class StudySearch(OptunaSearch):
    """What Tune asks for points: OptunaSearch on a prepared study, each proposal with a sampler of its own seed.

    A trial reports each objective under `objective_key(name)`. Its base class offers no public way to its study and trials:
    their attributes (`_ot_study`, `_ot_trials`, `_completed_trials`, `_metric`) were read in Ray 2.60, and are used here alone.
    """

    def __init__(
        self,
        study: Study,
        *,
        has_room: Callable[[], bool] = lambda: True,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        """
        Args:
            has_room: whether another trial would find room beside those that are under way. The first is not asked
                for: it waits for its own.
            on_change: called when a trial has ended.
        """
        self._prepared = study
        self._has_room = has_room
        self._on_change = on_change
        self.lost: list[int] = []
        """Numbers of the trials that the machine took away more often than they are tried again."""
        super().__init__(
            distributions(study.config.space),
            metric=[objective_key(item.name) for item in study.config.objectives],
            mode=[item.direction for item in study.config.objectives],
            study_name=study.name,
            storage=study.storage,
            sampler=study.sampler(),
        )

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        # The first trial is started whether there is room or not: it waits for its workers, with a line that says so.
        under_way = self._ot_trials.keys() - self._completed_trials
        if under_way and not self._has_room():
            return None  # Tune asks again
        # A sampler of its own for each proposal, whose seed a restart can work out again.
        self._ot_study.sampler = self._prepared.sampler()
        stored: dict[str, Any] | None = super().suggest(trial_id)
        if stored is None:
            return None
        point = point_of(stored, self._prepared.config.space)
        # Known in the study before the trial begins, so that a look at it finds the run while it trains.
        self._ot_trials[trial_id].set_user_attr(_RUN, trial_run_id(self._prepared.name, point))
        return point

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        # Tune tells of some ends twice.
        if trial_id in self._completed_trials:
            return
        self._completed_trials.add(trial_id)
        trial = self._ot_trials[trial_id]
        # The machine took it away: to Optuna it has not ended, so no sampler takes it for a bad point.
        if error:
            self.lost.append(trial.number)
        elif result and _CAUSE in result:
            reason = {"cause": result[_CAUSE], "reason": result[_REASON]}
            trial.set_user_attr(_FAILURE, reason)
            self._ot_study.tell(trial, state=TrialState.FAIL)
        elif result and set(self._metric) <= result.keys():
            self._ot_study.tell(trial, [result[name] for name in self._metric])
        # One that was cut off or lost stays as it is: the next start tries it again.
        self._on_change()

    def save(self, checkpoint_path: str) -> None:
        """Saves nothing: the study is what a restart reads."""

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles its whole setup for Tuner.restore, which is not used here; the study's URL, which may hold
        # a password, stays out of that file.
        return {}


def point_of(stored: Mapping[str, Any], space: Mapping[str, DomainConfig]) -> dict[str, Any]:
    """A point as a train file takes it, from what the study keeps of it."""
    return {key: _value(stored[key], domain) for key, domain in space.items()}


def stored_point(point: Point) -> dict[str, Scalar]:
    """What the study keeps of a point."""
    return {key: _stored(value) for key, value in point.items()}


def _stored(value: Value) -> Scalar:
    """Optuna's databases keep scalars only: a list is kept as its JSON text, which its dashboard can show."""
    return json.dumps(value) if isinstance(value, list | tuple) else value


def _value(stored: Scalar, domain: DomainConfig) -> Any:
    if isinstance(domain, ChoiceConfig):
        lists = [value for value in domain.values if isinstance(value, list | tuple)]
        return next((list(value) for value in lists if _stored(value) == stored), stored)
    return stored


def trial_run_id(search_id: str, point: Point) -> str:
    """Id of a trial's run: the same point of the same search is the same trial."""
    return f"{search_id}-{digest_of(dict(point))[:8]}"


def objective_key(name: str) -> str:
    """The key of an objective in a result, kept apart from the fields that Tune adds."""
    return f"objective/{name}"


_CAUSE, _REASON = "failure/cause", "failure/reason"


def failure_result(objectives: Iterable[ObjectiveConfig], failure: Failure) -> dict[str, Any]:
    """What a trial reports that came to no objectives; Tune wants each of them to be there."""
    values = {objective_key(item.name): math.nan for item in objectives}
    return {**values, _CAUSE: failure.cause, _REASON: failure.reason}


def _failure(trial: FrozenTrial) -> Failure | None:
    stored = trial.user_attrs.get(_FAILURE)
    return None if stored is None else Failure(cause=stored["cause"], reason=stored["reason"])


_DIRECTIONS = {"min": "minimize", "max": "maximize"}


def distributions(space: Mapping[str, DomainConfig]) -> dict[str, BaseDistribution]:
    return {key: _distribution(domain) for key, domain in space.items()}


def _distribution(domain: DomainConfig) -> BaseDistribution:
    match domain:
        case UniformConfig():
            return FloatDistribution(domain.low, domain.high)
        case LogUniformConfig():
            return FloatDistribution(domain.low, domain.high, log=True)
        case IntConfig():
            return IntDistribution(domain.low, domain.high)
        case ChoiceConfig():
            return CategoricalDistribution([_stored(value) for value in domain.values])
        case _:
            assert_never(domain)


def build_sampler(config: SearchConfig, *, seed: int) -> optuna.samplers.BaseSampler:
    match config.sampler:
        case TPEConfig(startup_trials=startup):
            # Multivariate: weights of a loss and its beta act together. Constant liar: trials that run count as
            # bad ones, so that concurrent proposals keep apart.
            return optuna.samplers.TPESampler(
                seed=seed, n_startup_trials=startup, multivariate=True, constant_liar=True
            )
        case RandomConfig():
            return optuna.samplers.RandomSampler(seed=seed)
        case _:
            assert_never(config.sampler)
