"""A finished evaluation as its rates are taken from: rows, samples, and what was asked of whom."""

from dataclasses import dataclass
from typing import Any

from safemirage.evaluation.cache_keys import EVALUATION_SCOPE
from safemirage.evaluation.metrics.rates import headline
from safemirage.evaluation.types import EvaluatedSample
from safemirage.store.records import EvaluationRecord, Row


@dataclass(frozen=True, kw_only=True)
class StoredEvaluation:
    """An evaluation with its samples, under a name that its table is read by."""

    id: str
    name: str
    rows: list[Row]
    samples: list[EvaluatedSample]
    record: EvaluationRecord

    def judge(self, metric: str) -> str | None:
        """The judge that the metric is reported by: the first that measures it."""
        return next((row.judge for row in headline(self.rows) if row.metric == metric), None)

    @property
    def protocol(self) -> str:
        """The protocol that the rows were counted by: `corrected` or `paper`."""
        return self.record.protocol

    @property
    def content(self) -> str:
        """The same for evaluations of one model, suite and set of judges, whatever they are called; the id, where
        the model cannot tell its weights."""
        generator = self.record.generator
        knows_itself = generator and generator.get("scope") != EVALUATION_SCOPE
        return self.record.identity if knows_itself else self.id

    @property
    def has_split_groups(self) -> bool:
        """Whether questions were sampled as the original does, so that a group may hold rewrites of several."""
        return self.record.sampling == "rows"

    @property
    def judge_keys(self) -> dict[str, Any]:
        """What each judge is made of, where the evaluation recorded it."""
        return {judge.name: judge.key for judge in self.record.judges}
