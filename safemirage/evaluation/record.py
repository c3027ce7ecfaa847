"""What the store keeps of what an evaluation was asked to do: one record, whether a job, a trial or the service asked."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from safemirage.config.generators import DecodingConfig
from safemirage.config.loading.identity import digest_of
from safemirage.config.loading.load import ConfigError, build_config, to_tree
from safemirage.config.rates import ProtocolName
from safemirage.config.types import Strict
from safemirage.store.evaluations import Evaluation


@dataclass(frozen=True, kw_only=True)
class JudgeRecord(Strict):
    name: str
    """The judge's name, which its verdicts carry."""
    key: dict[str, Any] = field(default_factory=dict)
    """What the judge is made of; empty where it is opened later than it is asked for, as in the service."""


@dataclass(frozen=True, kw_only=True)
class EvaluationRecord(Strict):
    name: str
    """What tables call the model."""
    source: Literal["job", "service"] = "job"
    """Who runs it: `service` waits in the store until the service takes it up."""
    suite: str | None = None
    """The suite's name; None for samples that were sent one by one."""
    suite_digest: str | None = None
    generator: dict[str, Any] = field(default_factory=dict)
    """What the model is made of, as far as it can tell."""
    judges: tuple[JudgeRecord, ...] = ()
    protocol: ProtocolName = "corrected"
    sample: int | None = None
    sampling: Literal["questions", "rows"] = "questions"
    seed: int = 0
    """Seed of the draw of a sample."""
    decoding: DecodingConfig = field(default_factory=DecodingConfig)
    config: dict[str, Any] | None = None
    """The whole config with the digests of its inputs in their place; None where the evaluation came over HTTP."""
    rescored: str | None = None
    """Id of the evaluation whose answers were judged again."""
    samples: tuple[dict[str, Any], ...] | None = None
    """Those that were sent one by one, images by their digests."""

    @property
    def identity(self) -> str:
        """Digest of all that decides the rows: names decide nothing, contents do."""
        return digest_of({**to_tree(self), "name": "", "suite": None})


def readable(evaluation: Evaluation) -> EvaluationRecord | None:
    """The record, or None for what another version has recorded: it is left out where others are looked for."""
    try:
        return read_evaluation(evaluation)
    except ConfigError:
        return None


def read_evaluation(evaluation: Evaluation) -> EvaluationRecord:
    """The record of a stored evaluation.

    Raises:
        ConfigError: it is not what this version records.
    """
    tree = dict(evaluation.spec)
    samples: Sequence[dict[str, Any]] | None = tree.pop("samples", None)
    record = build_config(EvaluationRecord, tree, source=f"record of evaluation {evaluation.id}")
    # Samples may be many, and were checked when they came in.
    return replace(record, samples=None if samples is None else tuple(samples))
