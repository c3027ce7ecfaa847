"""A search over the settings of a train file, for several objectives. Files: configs/search/*.yaml.

A trial is the train file `base`, with `overrides` and one value for each dotted path in `space`: what
`safemirage train BASE a.b=c ...` trains too.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field

from safemirage.config.evaluate import EvaluateConfig
from safemirage.config.generators import DecodingConfig, TransformersConfig
from safemirage.config.judges import JudgeConfig
from safemirage.config.rates import Metric
from safemirage.config.types import Strict, check_name, data_path, not_identity

Scalar = None | bool | int | float | str
Value = Scalar | tuple[Scalar, ...]
"""A list is a value too: the patterns of `model.trainable`, for one."""
Point = Mapping[str, Value]
"""One value for each dotted path of a space."""


@dataclass(frozen=True, kw_only=True)
class _Range(Strict):
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


@dataclass(frozen=True, kw_only=True)
class ChoiceConfig(Strict):
    """One of a list of values."""

    name: Literal["choice"] = "choice"
    values: Annotated[tuple[Value, ...], Field(min_length=1)]
    """The values to choose from; a list is a value too."""

    def __post_init__(self) -> None:
        if len(set(map(json.dumps, self.values))) != len(self.values):
            raise ValueError(f"values: {list(self.values)!r} holds one value twice")

    def holds(self, value: Value) -> bool:
        return json.dumps(value) in map(json.dumps, self.values)

    @property
    def corners(self) -> tuple[Value, ...]:
        return self.values


DomainConfig = Annotated[
    UniformConfig | LogUniformConfig | IntConfig | ChoiceConfig, Field(discriminator="name")
]


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig(Strict):
    """A rate to make small or large, over some conditions of the selection suite."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
    """The objective's name in the study."""
    metric: Metric
    """The rate of the evaluation that is read."""
    conditions: Annotated[tuple[str, ...], Field(min_length=1)]
    """The conditions of the selection suite that it is read from."""
    direction: Literal["min", "max"]
    """Whether less is better (`min`) or more (`max`)."""
    over: Literal["mean", "worst"] = "worst"
    """How the rates of several conditions become one number."""

    @property
    def ideal(self) -> float:
        """The best value that a rate can take."""
        return 0.0 if self.direction == "min" else 1.0


@dataclass(frozen=True, kw_only=True)
class TPEConfig(Strict):
    """Tree-structured Parzen estimator, for one objective or several."""

    name: Literal["tpe"] = "tpe"
    startup_trials: Annotated[int, Field(ge=1)] = 10
    """Trials drawn at random before the estimator has a say; the warm start counts."""


@dataclass(frozen=True, kw_only=True)
class RandomConfig(Strict):
    """Each trial draws its values anew, whatever the others found."""

    name: Literal["random"] = "random"


SamplerConfig = Annotated[TPEConfig | RandomConfig, Field(discriminator="name")]


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
    trials: Annotated[int, Field(ge=1)]
    """Points to train and judge, the warm start included."""
    seed: int = 0
    """Seed of the sampler; the seed of the trainings is the train file's."""
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = ()
    """Seeds that each point is trained at, in the train file's place; each objective is then the worst over them, so
    that no draw of one seed is chosen. None: the train file's own seed alone."""
    sampler: SamplerConfig = field(default_factory=TPEConfig)
    warm_start: tuple[dict[str, Value], ...] = ()
    """Points to try first, each with a value for every path of `space`."""
    max_concurrent: Annotated[int, Field(ge=1)] | None = not_identity(None)
    """Trials at a time; default as many as the cluster holds, 16 at the most. One at a time makes the proposals
    repeatable, because the sampler then sees the same finished trials in the same order."""
    max_failures: Annotated[int, Field(ge=0)] = not_identity(3)
    """How often a trial whose process, node or connection was lost is tried again. One that diverges or does not fit
    the device is a result, and is not."""
    selection: SelectionConfig

    def __post_init__(self) -> None:
        check_name(self.name)
        names = [item.name for item in self.objectives]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(
                f"objectives: the names {twice} stand twice; every objective needs its own"
            )
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds: {list(self.seeds)!r} holds one seed twice")
        if self.seeds and "seed" in self.space:
            raise ValueError("space.seed: `seeds` says which seeds every point is trained at")
        if len(self.warm_start) > self.trials:
            raise ValueError(
                f"trials: {self.trials!r} are less than the {len(self.warm_start)} of warm_start"
            )
        for index, point in enumerate(self.warm_start):
            _check_point(f"warm_start.{index}", point, self.space)


def _check_point(where: str, point: Point, space: Mapping[str, Any]) -> None:
    missing, unknown = sorted(set(space) - set(point)), sorted(set(point) - set(space))
    if missing or unknown:
        raise ValueError(
            f"{where}: a point has one value for each path of space; {missing=}, {unknown=}"
        )
    for key, value in point.items():
        if not space[key].holds(value):
            raise ValueError(f"{where}.{key}: {value!r} is not in space.{key}: {space[key]}")
