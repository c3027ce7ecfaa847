"""A search over the settings of a train file, for several objectives. Files: configs/search/*.yaml.

A trial is the train file `base`, with `overrides` and one value for each dotted path in `space`: what
`safemirage train BASE a.b=c ...` trains too.
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from safemirage.config.evaluate import EvaluateConfig
from safemirage.config.generators import DecodingConfig, TransformersConfig
from safemirage.config.judges import JudgeConfig
from safemirage.config.rates import Metric
from safemirage.config.types import (
    Count,
    Positive,
    Share,
    Strict,
    check_name,
    data_path,
    not_identity,
)

Scalar = None | bool | int | float | str
Leaf = Scalar | tuple[Scalar, ...]
"""A list is a value too: the patterns of `model.trainable`, for one."""
Value = Leaf | dict[str, Leaf]
"""So is a whole branch: `{name: rmu, mask: all}` for `method`."""
Point = Mapping[str, Value]
"""One value for each dotted path of a space that applies."""


@dataclass(frozen=True, kw_only=True)
class _Domain(Strict):
    when: dict[str, tuple[Value, ...]] = field(default_factory=dict)
    """Dotted paths of the train file -> the values at which this path is searched: `{method.name: [npo]}`. Paths of the
    space that decide it stand above. Empty: always."""


@dataclass(frozen=True, kw_only=True)
class _Range(_Domain):
    low: float
    """The smallest value, itself included."""
    high: float
    """The largest value, itself included."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ValueError(
                f"low must be less than high, and both finite, not {self.low=} and {self.high=}"
            )

    def holds(self, value: Value) -> bool:
        return (
            isinstance(value, int | float)
            and not isinstance(value, bool)
            and self.low <= value <= self.high
        )

    @property
    def corners(self) -> tuple[Value, ...]:
        return (self.low, self.high)

    def grid(self, levels: int) -> tuple[Value, ...]:
        """That many values at equal distances, from the lowest to the highest."""
        return tuple(np.linspace(self.low, self.high, levels).tolist())


@dataclass(frozen=True, kw_only=True)
class UniformConfig(_Range):
    """Any number of a range, each as likely."""

    name: Literal["uniform"] = "uniform"


@dataclass(frozen=True, kw_only=True)
class LogUniformConfig(_Range):
    """Uniform in the logarithm: each factor of ten gets the same share."""

    name: Literal["loguniform"] = "loguniform"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.low <= 0:
            raise ValueError(
                f"low: {self.low!r} has no logarithm; give a value > 0, or name: uniform"
            )

    def grid(self, levels: int) -> tuple[Value, ...]:
        # The ends as they are given: the logarithm and back would miss them by a rounding.
        inner = np.geomspace(self.low, self.high, levels).tolist()[1:-1]
        return (self.low, *inner, self.high)


@dataclass(frozen=True, kw_only=True)
class IntConfig(_Range):
    """A whole number of a range."""

    name: Literal["int"] = "int"
    low: int
    """The smallest value, itself included."""
    high: int
    """The largest value, itself included."""

    def holds(self, value: Value) -> bool:
        return isinstance(value, int) and super().holds(value)

    def grid(self, levels: int) -> tuple[Value, ...]:
        whole = np.linspace(self.low, self.high, min(levels, self.high - self.low + 1))
        return tuple(int(value) for value in whole.round())


@dataclass(frozen=True, kw_only=True)
class ChoiceConfig(_Domain):
    """One of a list of values."""

    name: Literal["choice"] = "choice"
    values: Annotated[tuple[Value, ...], Field(min_length=1)]
    """The values to choose from; a list is a value too, and so is a whole branch such as `method`."""

    def __post_init__(self) -> None:
        if len(set(map(json.dumps, self.values))) != len(self.values):
            raise ValueError(f"values: {list(self.values)!r} holds one value twice")

    def holds(self, value: Value) -> bool:
        return json.dumps(value) in map(json.dumps, self.values)

    @property
    def corners(self) -> tuple[Value, ...]:
        return self.values

    def grid(self, levels: int) -> tuple[Value, ...]:
        """All of them, however many levels are asked for: there is nothing between two choices."""
        return self.values


DomainConfig = Annotated[
    UniformConfig | LogUniformConfig | IntConfig | ChoiceConfig, Field(discriminator="name")
]


@dataclass(frozen=True, kw_only=True)
class _RateConfig(Strict):
    """A rate over some conditions of the selection suite."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
    """Its name in the study."""
    metric: Metric
    """The rate of the evaluation that is read."""
    conditions: Annotated[tuple[str, ...], Field(min_length=1)]
    """The conditions of the selection suite that it is read from."""
    over: Literal["mean", "worst"] = "worst"
    """How the rates of several conditions become one number."""


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig(_RateConfig):
    """A rate to make small or large."""

    direction: Literal["min", "max"]
    """Whether less is better (`min`) or more (`max`)."""

    @property
    def key(self) -> str:
        """Where it stands in the file."""
        return f"objectives.{self.name}"

    @property
    def ideal(self) -> float:
        """The best value that a rate can take."""
        return 0.0 if self.direction == "min" else 1.0

    def worst(self, values: Iterable[float]) -> float:
        return max(values) if self.direction == "min" else min(values)


@dataclass(frozen=True, kw_only=True)
class ConstraintConfig(_RateConfig):
    """A bound that a point must keep to be on the front. The sampler learns which points do; it does not try to make the
    rate any better than its bound."""

    at_most: Share | None = None
    """The largest rate that is allowed; or give `at_least`."""
    at_least: Share | None = None
    """The smallest rate that is allowed."""

    def __post_init__(self) -> None:
        if (self.at_most is None) == (self.at_least is None):
            raise ValueError(
                f"at_most, at_least: give one of both; now they are {self.at_most!r} and {self.at_least!r}"
            )

    @property
    def key(self) -> str:
        """Where it stands in the file."""
        return f"constraints.{self.name}"

    def worst(self, values: Iterable[float]) -> float:
        return min(values) if self.at_most is None else max(values)

    @property
    def bound(self) -> str:
        """The bound in words."""
        return (
            f"at least {self.at_least:g}" if self.at_most is None else f"at most {self.at_most:g}"
        )

    def excess(self, value: float) -> float:
        """How far a rate is beyond the bound; 0 or less where it keeps it."""
        if self.at_most is not None:
            return value - self.at_most
        assert self.at_least is not None, "__post_init__ checks that one of both is given"
        return self.at_least - value


RateConfig = ObjectiveConfig | ConstraintConfig


@dataclass(frozen=True, kw_only=True)
class TPEConfig(Strict):
    """Tree-structured Parzen estimator, for one objective or several, and for spaces with conditions."""

    name: Literal["tpe"] = "tpe"
    startup_trials: Count = 10
    """Trials drawn at random before the estimator has a say; the warm start counts."""


@dataclass(frozen=True, kw_only=True)
class GPConfig(Strict):
    """Gaussian process with the expected gain in hypervolume: the fewest trials where numbers are searched, some tens of
    them. Paths with `when` are drawn at random."""

    name: Literal["gp"] = "gp"
    startup_trials: Count = 10
    """Trials drawn at random first; the warm start counts."""


@dataclass(frozen=True, kw_only=True)
class NSGA2Config(Strict):
    """The genetic algorithm NSGA-II: for some hundreds of trials, many at a time."""

    name: Literal["nsga2"] = "nsga2"
    population: Annotated[int, Field(ge=2)] = 20
    """Trials of a generation."""


@dataclass(frozen=True, kw_only=True)
class RandomConfig(Strict):
    """Each trial draws its values anew, whatever the others found."""

    name: Literal["random"] = "random"


@dataclass(frozen=True, kw_only=True)
class GridConfig(Strict):
    """Every combination of the space's values, after the warm start."""

    name: Literal["grid"] = "grid"
    levels: Annotated[int, Field(ge=2)] = 3
    """Values that are taken of a range, its ends among them. Of a choice all are."""


@dataclass(frozen=True, kw_only=True)
class AutoConfig(Strict):
    """`gp` where every path is a range without `when` and 100 trials or fewer are to be made, else `tpe`."""

    name: Literal["auto"] = "auto"


SamplerConfig = Annotated[
    TPEConfig | GPConfig | NSGA2Config | RandomConfig | GridConfig | AutoConfig,
    Field(discriminator="name"),
]


@dataclass(frozen=True, kw_only=True)
class SelectionConfig(Strict):
    """How a trial is judged."""

    suite: str = data_path()
    """Folder of the selection split. A suite that results are reported on must not be used to choose."""
    judges: Annotated[tuple[JudgeConfig, ...], Field(min_length=1)]
    decoding: DecodingConfig = field(default_factory=DecodingConfig)
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Number format of the weights."""
    batch_size: Annotated[int, Field(ge=1)] = 32
    """Samples that the model is given in one call."""

    def __post_init__(self) -> None:
        self.evaluation("checks", TransformersConfig(path=""))  # raises as EvaluateConfig does

    def evaluation(self, name: str, model: TransformersConfig) -> EvaluateConfig:
        """The evaluation of one trial's model."""
        return EvaluateConfig(
            name=name,
            model=model,
            suite=self.suite,
            judges=self.judges,
            decoding=self.decoding,
            batch_size=self.batch_size,
        )


@dataclass(frozen=True, kw_only=True)
class SearchConfig(Strict):
    name: str = not_identity("search")
    """Readable start of the run's name; the identity follows it."""
    base: str = field(metadata={"identity": False})
    """Train file, relative to the file that holds this; what is in it counts for the identity."""
    overrides: tuple[str, ...] = field(default=(), metadata={"identity": False})
    """`a.b=c` on the train file, the same for every trial."""
    space: Annotated[dict[str, DomainConfig], Field(min_length=1)]
    """Dotted paths of the train file -> the values to try."""
    objectives: Annotated[tuple[ObjectiveConfig, ...], Field(min_length=1)]
    constraints: tuple[ConstraintConfig, ...] = ()
    """Bounds that a point must keep to be on the front."""
    weights: dict[str, Positive] = field(default_factory=dict)
    """Objective -> how much it counts when one point of the front is chosen; one that is not named counts 1."""
    trials: Count | None = None
    """Points to train and judge, the warm start included. None: until `hours` or `gpu_hours` are spent, or the grid is
    done. The search ends with whichever of them comes first."""
    hours: Positive | None = None
    """Hours, over all attempts at this search, after which no other point is begun; those under way are finished."""
    gpu_hours: Positive | None = None
    """The same in hours of GPUs: of each trial's time times its workers."""
    seed: int = 0
    """Seed of the sampler; the seed of the trainings is the train file's."""
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = ()
    """Seeds that each point is trained at, in the train file's place; each objective is then the worst over them, so
    that no draw of one seed is chosen. Empty: the train file's own seed alone."""
    front_seeds: tuple[Annotated[int, Field(ge=0)], ...] = ()
    """Further seeds that the front's points are trained at when all trials are done; one of them is then chosen by its mean
    over all seeds, so that a point which was lucky once is not."""
    sampler: SamplerConfig = field(default_factory=TPEConfig)
    warm_start: tuple[dict[str, Value], ...] = ()
    """Points to try first, each with a value for every path of `space` that applies to it."""
    max_concurrent: Annotated[int, Field(ge=1)] | None = not_identity(None)
    """Trials at a time; default as many as the cluster holds, 16 at the most. One at a time makes the proposals
    repeatable, because the sampler then sees the same finished trials in the same order."""
    max_failures: Annotated[int, Field(ge=0)] = not_identity(3)
    """How often a trial whose process, node or connection was lost is tried again. One that diverges or does not fit
    the device is a result, and is not."""
    selection: SelectionConfig
    """How trials are judged, and on what."""
    test: str | None = data_path(None)
    """Folder of the test split: the chosen point is scored on it, once. It shares no picture with the selection split or the
    training files."""

    def __post_init__(self) -> None:
        check_name(self.name)
        names = [item.name for item in (*self.objectives, *self.constraints)]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(
                f"objectives, constraints: the names {twice} stand twice; each needs its own"
            )
        if unknown := sorted(self.weights.keys() - {item.name for item in self.objectives}):
            raise ValueError(f"weights: {unknown} are no objectives; there are {names}")
        if (self.trials, self.hours, self.gpu_hours).count(
            None
        ) == 3 and self.sampler.name != "grid":
            raise ValueError(
                "trials, hours, gpu_hours: give one of them; only a grid has an end of its own"
            )
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds: {list(self.seeds)!r} holds one seed twice")
        if (self.seeds or self.front_seeds) and "seed" in self.space:
            raise ValueError("space.seed: `seeds` says which seeds every point is trained at")
        if shared := sorted({*self.front_seeds} & {*self.seeds}):
            raise ValueError(
                f"front_seeds: {shared} stand in seeds too, where nothing new comes of them"
            )
        if self.trials is not None and len(self.warm_start) > self.trials:
            raise ValueError(
                f"trials: {self.trials!r} are less than the {len(self.warm_start)} of warm_start"
            )
