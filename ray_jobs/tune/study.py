"""The Optuna study of a search: its storage, its queue of points, and what a restart makes of it.

The study lives in a database of its own that optuna-dashboard opens, and the sampler reads its history from there.
A search that was cut off resumes the same study: points that were under way wait again, and the sampler proposes
what it would have proposed. A trial that the machine took away is never a failed one.
"""

import json
import math
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, assert_never

import numpy as np
import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState
from ray.tune.search import Searcher
from sqlalchemy import URL

from ray_jobs.cluster.failures import Failure
from safemirage.config.loading.identity import digest_of
from safemirage.config.loading.load import to_tree
from safemirage.config.plan import SearchPlan
from safemirage.config.search import (
    AutoConfig,
    ChoiceConfig,
    DomainConfig,
    GPConfig,
    GridConfig,
    IntConfig,
    LogUniformConfig,
    NSGA2Config,
    Point,
    RandomConfig,
    Scalar,
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
_HOURS = "hours"
"""Attribute of the study: what was spent on it until the last trial that ended."""
_RUN = "run_id"
"""Attribute that names the trial's run in our store, for whoever looks at the study in optuna-dashboard."""
_BUSY_TIMEOUT_S = 60
_FEWEST_FOR_IMPORTANCES = 8
"""Trials below which what is important would be chance."""
_MOST_FOR_GP = 100
"""Trials up to which `auto` takes the Gaussian process, whose proposals take longer with each."""


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
    hours: float
    """Hours that its last try took; 0 until it has ended."""

    @property
    def is_settled(self) -> bool:
        """Whether trying it again would change nothing."""
        of_method = self.failure is not None and self.failure.cause == "method"
        return self.state == TrialState.COMPLETE or of_method


class Study:
    """A search's study. One process at a time may use it, which the lease on the search's run makes sure of."""

    def __init__(self, plan: SearchPlan, *, name: str, storage: RDBStorage) -> None:
        self.plan = plan
        self.config = plan.config
        self.name = name
        self._storage = storage
        self._noted_at = time.monotonic()
        optuna.logging.set_verbosity(optuna.logging.WARNING)  # our own progress says what it would
        self._study = optuna.create_study(
            study_name=name,
            storage=storage,
            directions=[_DIRECTIONS[item.direction] for item in self.config.objectives],
            load_if_exists=True,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            self._study.set_metric_names([item.name for item in self.config.objectives])

    def prepare(self) -> int | None:
        """Queues the points to be tried first, and again what was cut off or failed by its config. Returns how many points
        are still to do; None: as many as the budget allows."""
        self._queue_first_points()
        for trial in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            # No process works on it: the caller holds the search's lease. It keeps its number and its point.
            # Optuna 5.0 tells the storage's number of a trial nowhere else, and `Study.tell` cannot put one back.
            self._storage.set_trial_state_values(trial._trial_id, TrialState.WAITING)
        for proposal in self.proposals():
            if proposal.state == TrialState.FAIL and not proposal.is_settled:
                self._queue_again(proposal)
        if self.is_spent:
            return 0
        if self.plan.trials is None:
            return None
        return max(0, self.plan.trials - sum(item.is_settled for item in self.proposals()))

    @property
    def hours(self) -> float:
        """Hours that were spent on the study in all attempts."""
        before: float = self._study.user_attrs.get(_HOURS, 0.0)
        return before + (time.monotonic() - self._noted_at) / 3600

    @property
    def gpu_hours(self) -> float:
        """Hours of GPUs that ended trials held: what a trial's own time was, times its workers."""
        workers = self.plan.base.workers
        spans = [trial.duration for trial in self._study.get_trials(deepcopy=False)]
        hours = sum(span.total_seconds() for span in spans if span is not None) / 3600
        return hours * workers.count if workers.gpu else 0.0

    @property
    def is_spent(self) -> bool:
        """Whether the budget of hours allows no other point."""
        spent = ((self.config.hours, self.hours), (self.config.gpu_hours, self.gpu_hours))
        return any(budget is not None and used >= budget for budget, used in spent)

    def proposals(self) -> list[Proposal]:
        """The points proposed so far in order, each once: as tried the last time."""
        return [
            Proposal(
                number=trial.number,
                point=point_of(trial.params, self.config.space),
                state=trial.state,
                values=tuple(trial.values) if trial.state == TrialState.COMPLETE else None,
                failure=_failure(trial),
                hours=0.0 if trial.duration is None else trial.duration.total_seconds() / 3600,
            )
            for trial in self._counted()
        ]

    def importances(self) -> dict[str, dict[str, float]]:
        """Objective -> path -> how much of what sets the best trials apart it explains, by Optuna's PED-ANOVA; empty where
        too few trials have ended. Paths that do not apply to every trial are left out."""
        done = self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        if len(done) < _FEWEST_FOR_IMPORTANCES or not set.intersection(
            *(set(t.params) for t in done)
        ):
            return {}
        found = {}
        with warnings.catch_warnings(action="ignore", category=UserWarning):
            for index, item in enumerate(self.config.objectives):
                # PED-ANOVA takes small values for good ones, and warns that it does.
                sign = 1.0 if item.direction == "min" else -1.0
                found[item.name] = optuna.importance.get_param_importances(
                    self._study,
                    target=lambda trial, index=index, sign=sign: sign * trial.values[index],
                )
        return found

    def ask(self) -> tuple[optuna.Trial, dict[str, Value]]:
        """The next point: from the queue, else from the sampler."""
        # A sampler of its own for each proposal, whose seed a restart can work out again.
        self._study.sampler = self._sampler()
        trial = self._study.ask()
        point = suggest(trial, self.plan)
        # Known in the study before the trial begins, so that a look at it finds the run while it trains.
        trial.set_user_attr(_RUN, trial_run_id(self.name, point))
        return trial, point

    def tell(self, trial: optuna.Trial, result: Mapping[str, Any]) -> None:
        """What a trial reported: its objectives, or the failure that it came to."""
        keys = [objective_key(item.name) for item in self.config.objectives]
        if _CAUSE in result:
            trial.set_user_attr(_FAILURE, {"cause": result[_CAUSE], "reason": result[_REASON]})
            self._study.tell(trial, state=TrialState.FAIL)
        elif set(keys) <= result.keys():
            for item in self.config.constraints:
                trial.set_constraint(item.name, item.excess(result[objective_key(item.name)]))
            self._study.tell(trial, [result[key] for key in keys])
        hours = self.hours
        self._noted_at = time.monotonic()
        self._study.set_user_attr(_HOURS, hours)

    def _sampler(self) -> optuna.samplers.BaseSampler:
        """The sampler of the next proposal. Its seed depends on the number of proposals before it alone, so that a
        search that was cut off draws no point twice, and draws what it would have drawn."""
        sequence = np.random.SeedSequence([self.config.seed, len(self._counted())])
        return build_sampler(self.plan, seed=int(sequence.generate_state(1)[0]))

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
            and _RUN in trial.user_attrs  # else it was cut off before its point was whole
        ]

    def _queue_again(self, proposal: Proposal) -> None:
        self._study.enqueue_trial(
            stored_point(proposal.point), user_attrs={_RESUMES: proposal.number}
        )

    def _queue_first_points(self) -> None:
        trials = self._study.get_trials(deepcopy=False)
        # By index, so that a point that stands in the warm start twice is tried twice.
        queued = {trial.user_attrs.get(_WARM_START) for trial in trials}
        for index, point in enumerate(self.plan.queue):
            if index not in queued:
                attributes = {_WARM_START: index}
                self._study.enqueue_trial(stored_point(point), user_attrs=attributes)


class StudySearch(Searcher):
    """What Tune asks for points: a prepared study, each proposal with a sampler of its own seed.

    Tune's own OptunaSearch knows neither a restart's seed nor a failure that is no bad point, and has no public way to its
    study. A trial reports each objective under `objective_key(name)`.
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
        super().__init__()
        self._study = study
        self._has_room = has_room
        self._on_change = on_change
        self._under_way: dict[str, optuna.Trial] = {}
        self.lost: list[int] = []
        """Numbers of the trials that the machine took away more often than they are tried again."""

    def set_search_properties(
        self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any
    ) -> bool:
        return True  # the study has its own space and directions

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        # The first trial is started whether there is room or not: it waits for its workers, with a line that says so.
        if self._under_way and not self._has_room():
            return None  # Tune asks again
        if self._study.is_spent:
            return Searcher.FINISHED
        trial, point = self._study.ask()
        self._under_way[trial_id] = trial
        return point

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        # Tune tells of some ends twice.
        if (trial := self._under_way.pop(trial_id, None)) is None:
            return
        # The machine took it away: to Optuna it has not ended, so no sampler takes it for a bad point. One that was cut
        # off stays as it is likewise: the next start tries both again.
        if error:
            self.lost.append(trial.number)
        elif result:
            self._study.tell(trial, result)
        self._on_change()

    def save(self, checkpoint_path: str) -> None:
        """Saves nothing: the study is what a restart reads."""

    def restore(self, checkpoint_path: str) -> None:
        """Never called, as nothing is saved."""

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles its whole setup for Tuner.restore, which is not used here; the study's URL, which may hold
        # a password, stays out of that file.
        return {}


def suggest(trial: optuna.Trial, plan: SearchPlan) -> dict[str, Value]:
    """A point as a train file takes it, each value asked of the trial."""

    def choose(key: str, domain: DomainConfig) -> Value:
        match domain:
            case UniformConfig() | LogUniformConfig():
                log = isinstance(domain, LogUniformConfig)
                return trial.suggest_float(key, domain.low, domain.high, log=log)
            case IntConfig():
                return trial.suggest_int(key, domain.low, domain.high)
            case ChoiceConfig():
                stored = trial.suggest_categorical(key, [*map(_stored, domain.values)])
                return _value(stored, domain)
            case _:
                assert_never(domain)

    return plan.point(choose)


def point_of(stored: Mapping[str, Any], space: Mapping[str, DomainConfig]) -> dict[str, Value]:
    """A point as a train file takes it, from what the study keeps of it."""
    return {key: _value(stored[key], domain) for key, domain in space.items() if key in stored}


def stored_point(point: Point) -> dict[str, Scalar]:
    """What the study keeps of a point."""
    return {key: _stored(value) for key, value in point.items()}


def _stored(value: Value) -> Scalar:
    """Optuna's databases keep scalars only: a list or a branch is kept as its JSON text, which its dashboard can show."""
    return json.dumps(value) if isinstance(value, list | tuple | dict) else value


def _value(stored: Scalar, domain: DomainConfig) -> Any:
    if isinstance(domain, ChoiceConfig):
        deep = [value for value in domain.values if isinstance(value, list | tuple | dict)]
        return next((to_tree(value) for value in deep if _stored(value) == stored), stored)
    return stored


def trial_run_id(search_id: str, point: Point) -> str:
    """Id of a trial's run: the same point of the same search is the same trial."""
    return f"{search_id}-{digest_of(dict(point))[:8]}"


def objective_key(name: str) -> str:
    """The key of an objective in a result, kept apart from the fields that Tune adds."""
    return f"objective/{name}"


_CAUSE, _REASON = "failure/cause", "failure/reason"


def failure_result(failure: Failure) -> dict[str, Any]:
    """What a trial reports that came to no objectives."""
    return {_CAUSE: failure.cause, _REASON: failure.reason}


def _failure(trial: FrozenTrial) -> Failure | None:
    stored = trial.user_attrs.get(_FAILURE)
    return None if stored is None else Failure(cause=stored["cause"], reason=stored["reason"])


_DIRECTIONS = {"min": "minimize", "max": "maximize"}


def build_sampler(plan: SearchPlan, *, seed: int) -> optuna.samplers.BaseSampler:
    space, sampler = plan.config.space, plan.config.sampler
    has_conditions = any(domain.when for domain in space.values())
    if isinstance(sampler, AutoConfig):
        is_smooth = not has_conditions and all(item.name != "choice" for item in space.values())
        few = (plan.trials or math.inf) <= _MOST_FOR_GP
        sampler = GPConfig() if is_smooth and few else TPEConfig()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        match sampler:
            case TPEConfig(startup_trials=startup):
                # Multivariate: weights of a loss and its beta act together. Constant liar: trials that run count as
                # bad ones, so that concurrent proposals keep apart. Group: paths of one method are drawn together.
                return optuna.samplers.TPESampler(
                    seed=seed,
                    n_startup_trials=startup,
                    multivariate=True,
                    constant_liar=True,
                    group=has_conditions,
                )
            case GPConfig(startup_trials=startup):
                return optuna.samplers.GPSampler(seed=seed, n_startup_trials=startup)
            case NSGA2Config(population=population):
                return optuna.samplers.NSGAIISampler(seed=seed, population_size=population)
            case RandomConfig() | GridConfig():
                # A grid's points stand in the queue; what were proposed beyond them would be drawn.
                return optuna.samplers.RandomSampler(seed=seed)
            case _:
                assert_never(sampler)
