"""What the runs of each kind record as their config and their result: one class each, for who writes it and who reads it.

A run of kind `train` has its TrainConfig as config, one of kind `world` its WorldConfig. In the store a record is a plain
tree: `to_tree` makes it, `read_record` takes it up again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from safemirage.config.loading.load import build_config
from safemirage.config.plan import point_overrides
from safemirage.config.search import ConstraintConfig, ObjectiveConfig, SearchConfig, Value
from safemirage.config.train import TrainConfig
from safemirage.config.types import Strict
from safemirage.store.records import Row
from safemirage.training.job import TrainSummary

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class WorldResult(Strict):
    initial: str
    """Folder of the model that nothing was trained on but its vision tower."""
    suite: str
    """Name of the test suite in the service."""


@dataclass(frozen=True, kw_only=True)
class Measured(Strict):
    """What came of a run's snapshot that was evaluated beside the training: rows, or why there are none."""

    step: int
    settings: str
    """Digest of the evaluation's config: the same run may be watched by another one later."""
    evaluation: str | None = None
    """Id of the evaluation in the store, where it came so far."""
    rows: tuple[Row, ...] | None = None
    error: str = ""


@dataclass(frozen=True, kw_only=True)
class TrainResult(TrainSummary):
    watch: tuple[Measured, ...] = ()
    """What `config.watch` measured, in the order of steps."""


@dataclass(frozen=True, kw_only=True)
class StudyConfig(Strict):
    """Config of a run of kind `search`."""

    search: SearchConfig
    base: TrainConfig
    """The train file with the search's overrides, without a point."""


@dataclass(frozen=True, kw_only=True)
class TrialConfig(Strict):
    """Config of a run of kind `trial`."""

    overrides: dict[str, Value]
    """The point: dotted path -> value."""


@dataclass(frozen=True, kw_only=True)
class SeedResult(Strict):
    """What a point came to at one seed."""

    seed: int
    objectives: dict[str, float]
    constraints: dict[str, float] = field(default_factory=dict)
    train_run_id: str
    export: str
    """Folder of the trained model."""
    rows: tuple[Row, ...]
    """The rows of the model's evaluation on the selection suite."""


@dataclass(frozen=True, kw_only=True)
class TrialResult(Strict):
    objectives: dict[str, float]
    """The worst of each over the seeds."""
    constraints: dict[str, float] = field(default_factory=dict)
    """The rate that each constraint bounds; the worst over the seeds."""
    at_seeds: Annotated[tuple[SeedResult, ...], Field(min_length=1)]
    """One for each seed of the search, in their order; without `seeds` the train file's own."""


@dataclass(frozen=True, kw_only=True)
class SeedRates(Strict):
    """The objectives and the rates of constraints of a point at one seed."""

    seed: int
    objectives: dict[str, float]
    constraints: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class SplitScore(Strict):
    """What the chosen point came to on the test split. Result of a run of kind `test`."""

    suite: str
    """Digest of the suite's samples."""
    earlier: int
    """Points that searches had scored on this suite before: with each that one looks at, the next number tells less."""
    rows: tuple[Row, ...]


@dataclass(frozen=True, kw_only=True)
class TrialOutcome(Strict):
    """One point: what it was, and what it came to."""

    number: int
    """The trial's number in the study; numbers of attempts that were cut off are left out."""
    run_id: str
    """The id of the run of kind `trial`; a point proposed twice is one run."""
    state: Literal["finished", "failed"]
    overrides: dict[str, Value]
    """The point: dotted path -> value."""
    objectives: dict[str, float] | None
    error: str | None
    constraints: dict[str, float] = field(default_factory=dict)
    bands: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Objective -> bounds of its 95 % interval, of the worst condition and seed."""
    hours: float = 0.0
    """Hours that the trial took; next to none where its training was there already."""
    at_seeds: tuple[SeedRates, ...] = ()
    """Every seed of a point that was repeated at `front_seeds`."""
    repeat_error: str | None = None
    """Why the point came to nothing at one of them."""
    train_run_id: str | None
    export: str | None
    """Folder of the trained model."""
    degenerate: float | None = None
    """The largest share of degenerate answers to unsafe questions in any condition and at any seed: a low ASR may be made of
    them. None where it was not measured."""


@dataclass(frozen=True, kw_only=True)
class SearchOutcome(Strict):
    """Result of a run of kind `search`."""

    run_id: str
    trials: tuple[TrialOutcome, ...]
    front: tuple[int, ...]
    """Numbers of the trials that no other is better than; a point that was proposed twice stands once."""
    knee: int
    """Number of the chosen trial, the one nearest to the ideal by the search's weights: see
    `safemirage.evaluation.metrics.pareto.knee`."""
    hypervolume: float
    """Share of the unit box of all objectives that the front dominates."""
    test: SplitScore | None = None
    """The chosen point on the test split, where the search names one."""

    @property
    def knee_trial(self) -> TrialOutcome:
        return next(trial for trial in self.trials if trial.number == self.knee)

    @property
    def knee_overrides(self) -> tuple[str, ...]:
        """The chosen point as `a.b=c`, to be given to its train file."""
        return tuple(point_overrides(self.knee_trial.overrides))


@dataclass(frozen=True, kw_only=True)
class EvaluateResult(Strict):
    """Result of a run of kind `evaluate`: an evaluation that was asked of the service."""

    evaluation: str
    """The id of the evaluation."""
    rows: tuple[Row, ...]


def read_record(cls: type[T], tree: Mapping[str, Any] | None, *, of: str) -> T:
    """The record of a stored tree.

    Args:
        of: the run that recorded it, for the error.

    Raises:
        ConfigError: there is none, or it is not what this version records.
    """
    return build_config(cls, tree or {}, source=f"record of {of}")


def excess_of(rates: Mapping[str, float], constraints: Sequence[ConstraintConfig]) -> float:
    """How far a point is beyond its bounds, all of them together; 0 where it keeps every one."""
    return sum(max(0.0, item.excess(rates[item.name])) for item in constraints)


def costs_of(
    points: Sequence[Mapping[str, float]], objectives: Sequence[ObjectiveConfig]
) -> NDArray[np.float64]:
    """The objectives of some points as numbers to make small: a row a point, a column an objective."""
    signs = [1.0 if item.direction == "min" else -1.0 for item in objectives]
    values = [[point[item.name] for item in objectives] for point in points]
    return np.array(values, dtype=np.float64).reshape(len(points), len(signs)) * signs
