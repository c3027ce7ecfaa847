"""What the HTTP routes need of the world behind them. `serve_app.service` is the one implementation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, Protocol

from safemirage.config.generators import DecodingConfig
from safemirage.config.rates import ProtocolName
from safemirage.evaluation.judges import Judged
from safemirage.evaluation.types import Generation, Request, Sample, Verdict
from safemirage.store.evaluations import Evaluation

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
class EvaluationSpec:
    """What an evaluation does; two with the same spec give the same rows."""

    model: str
    suite: str | None
    samples: Sequence[Sample] | None
    protocol: ProtocolName
    judges: Sequence[str]
    sample: int | None
    seed: int
    decoding: DecodingConfig


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One setting that a search tried."""

    id: str
    state: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """The point: dotted path -> value."""
    objectives: Mapping[str, float] = field(default_factory=dict)
    """The objectives by name; empty until the trial is finished."""
    front: bool = False
    """Whether no other trial is as good in everything and better in something."""
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
    trials: Sequence[Trial]
    progress: Mapping[str, Any]
    error: str | None
    created_at: datetime
    updated_at: datetime


class Backend(Protocol):
    """Raises serve_app.http.errors.ApiError for what the caller got wrong, e.g. 404 for a name that is not there."""

    async def models(self) -> list[ModelCard]: ...

    async def model(self, model_id: str) -> ModelCard: ...

    def judges(self) -> list[JudgeCard]: ...

    async def suites(self) -> list[SuiteCard]: ...

    async def generate(
        self, model: str, requests: Sequence[Request], decoding: DecodingConfig
    ) -> list[Generation]:
        """Answers requests, one answer each, in order."""

    async def judge(self, judge: str, items: Sequence[Judged]) -> list[Verdict]:
        """Judges items, one verdict each, in order."""

    async def submit(self, spec: EvaluationSpec, *, idempotency_key: str | None) -> Evaluation:
        """Queues an evaluation. The same key with the same spec is the same evaluation: one that failed or was
        cancelled is queued again, any other is returned as it is. With another spec it is refused (422)."""

    async def evaluation(self, evaluation_id: str) -> Evaluation: ...

    async def evaluations(self, *, limit: int, offset: int) -> list[Evaluation]:
        """Newest first."""

    async def samples(self, evaluation_id: str, *, limit: int, offset: int) -> list[dict[str, Any]]:
        """The samples that are stored so far, by position. Each has position, subset, question, answer, verdicts, ..."""

    async def cancel(self, evaluation_id: str) -> Evaluation:
        """Ends it at the next batch; one that has ended is returned as it is."""

    async def studies(self) -> list[Study]:
        """Newest first."""

    async def study(self, study_id: str) -> Study: ...
