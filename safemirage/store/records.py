"""What the store keeps of an evaluation: what it was asked to do, one record whether a job, a trial or the service asked, and
the rows that it ended with."""

from dataclasses import dataclass, field
from typing import Any, Literal

from safemirage.config.generators import DecodingConfig
from safemirage.config.loading.identity import digest_of
from safemirage.config.loading.load import to_tree
from safemirage.config.rates import Metric, ProtocolName
from safemirage.config.types import Strict


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
    owner: str = ""
    """Name of the bearer token that asked the service for it; it decides nothing of the rows."""
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
        tree = to_tree(self)
        del tree["owner"]
        return digest_of({**tree, "name": "", "suite": None})


@dataclass(frozen=True, kw_only=True)
class Row:
    model: str
    condition: str
    metric: Metric
    value: float | None
    """The rate in 0..1; None when nothing was scored."""
    low: float | None
    high: float | None
    """Bounds of the 95 % interval."""
    n: int
    """What the rate is over: questions for asr, answers for the others."""
    judge: str
    unscored: int
    """Answers without a verdict; under the protocol `corrected` they are in no rate."""
    defaulted: int = 0
    """Under the protocol `paper`: answers in n of which no verdict says what they are counted as, but a rule for
    silence does. The unscored are among them."""
