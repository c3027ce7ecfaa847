"""What the service offers, as its routes show it: models, judges, suites, studies. `service.py` makes them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

State = Literal["ready", "broken"]


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """An export. One that is broken cannot be asked, and has no more than id, date and problem."""

    id: str
    created: int
    """When it was made, in seconds since the epoch."""
    state: State = "ready"
    problem: str | None = None
    """What is wrong with one that is broken."""
    base: str | None = None
    """What its training started from; None for a model trained from nothing."""
    method: str | None = None
    identity: str | None = None
    weights_digest: str | None = None
    processor_digest: str | None = None


@dataclass(frozen=True, kw_only=True)
class JudgeCard:
    """A judge that can be named."""

    name: str
    kind: Literal["built-in", "model"]
    model: str | None = None
    """Id of the export that a judge of kind `model` asks; None for a model behind a URL."""


@dataclass(frozen=True, kw_only=True)
class SuiteCard:
    """A suite. One that is broken has no conditions that can be told."""

    name: str
    state: State = "ready"
    problem: str | None = None
    """What is wrong with one that is broken."""
    conditions: Mapping[str, int] = field(default_factory=dict)
    """Name of a condition -> how many samples it has."""
    questions: int = 0
    """Distinct questions, a question and its rewrites counted once."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One setting that a search tried."""

    id: str
    state: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """The point: dotted path -> value."""
    objectives: Mapping[str, float] = field(default_factory=dict)
    """The objectives by name; empty until the trial is finished."""
    constraints: Mapping[str, float] = field(default_factory=dict)
    """The rates that the study's `bounds` are on, by name."""
    front: bool = False
    """Whether it keeps every bound, and no other such trial is as good in everything and better in something."""
    error: str | None
    progress: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Study:
    """A search and its trials."""

    id: str
    name: str
    state: str
    is_live: bool
    """Whether a process works on it now."""
    directions: Mapping[str, Literal["min", "max"]]
    """Objective -> whether it shall be small or large."""
    bounds: Mapping[str, str]
    """Constraint -> its bound, such as `at most 0.05`; a trial beyond it is not on the front."""
    trials: Sequence[Trial]
    progress: Mapping[str, Any]
    error: str | None
    created_at: datetime
    updated_at: datetime
