"""One evaluation: which model, suite and judges, and how answers are decoded. Files: configs/evaluate/*.yaml.

`generators.py` has the models, `judges.py` the judges, `vlguard.py` and `sets.py` the public suites.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from safemirage.config.generators import DecodingConfig, GeneratorConfig, OpenAIConfig
from safemirage.config.judges import (
    JudgeConfig,
    KeywordsJudgeConfig,
    check_judge_names,
    judge_title,
)
from safemirage.config.loading.load import ConfigError
from safemirage.config.rates import ProtocolName
from safemirage.config.sets import SetConfig
from safemirage.config.types import Count, Share, Strict, check_name, data_path, not_identity
from safemirage.config.vlguard import VLGuardConfig


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(Strict):
    name: str = not_identity("evaluation")
    """Readable start of the evaluation's id."""
    model: GeneratorConfig
    suite: str | None = data_path(None)
    """Folder with suite.json and its images; or give `vlguard` or `set`."""
    vlguard: VLGuardConfig | None = None
    """VLGuard's own files as the suite."""
    set: SetConfig | None = None
    """Another public data set as the suite, by its name: `set: {name: xstest, prompts: ...}`."""
    judges: Annotated[tuple[JudgeConfig, ...], Field(min_length=1)] = field(
        default_factory=lambda: (KeywordsJudgeConfig(),)
    )
    """A rate that several judges measure is reported by the first of them in the main table."""
    protocol: ProtocolName = "corrected"
    """`paper` counts as the original does: what is unscored stays in the denominators, as no success."""
    sample: Count | None = None
    """Draw this many questions of each condition; a question's rewrites come along. None: all."""
    sampling: Literal["questions", "rows"] = "questions"
    """`rows` draws single rewrites, as the original does, and so separates the rewrites of a question; `paper` only."""
    seed: int = 0
    """Seed of the draw of a sample."""
    decoding: DecodingConfig = field(default_factory=DecodingConfig)
    batch_size: Count = 32
    """Samples that the model is given in one call. Batches are stored whole and cut in a fixed order."""
    max_unscored: Share = 0.05
    """Share of the samples that a judge may leave without a verdict; with more the evaluation fails."""

    def __post_init__(self) -> None:
        check_name(self.name)
        if [self.suite, self.vlguard, self.set].count(None) != 2:
            raise ValueError("suite, vlguard, set: give one of them")
        if self.sampling == "rows" and self.protocol != "paper":
            raise ValueError(
                "sampling: 'rows' separates the rewrites of a question and is for protocol: paper; allowed: 'questions'"
            )
        check_judge_names(self.judges)


@dataclass(frozen=True, kw_only=True)
class RescoreConfig(Strict):
    """Judging stored answers again: each judge is written as in an evaluation's config."""

    judges: Annotated[tuple[JudgeConfig, ...], Field(min_length=1)]
    """A rate that several judges measure is reported by the first of them in the main table."""

    def __post_init__(self) -> None:
        check_judge_names(self.judges)


def suite_name(config: EvaluateConfig) -> str:
    """What tables and progress call the suite."""
    if config.set is not None:
        return config.set.name
    return "vlguard" if config.suite is None else Path(config.suite).name


def service_body(config: EvaluateConfig) -> dict[str, Any]:
    """The same evaluation as a service takes it: exports and suites by the names of their folders, judges by their titles.

    Raises:
        ConfigError: it is of what a service does not have.
    """
    problems = []
    if isinstance(config.model, OpenAIConfig):
        problems.append("model: the service asks its own exports; name one by transformers or vllm")
    if config.suite is None:
        problems.append("suite: the service has suites of its storage only; write the set as one")
    if config.sampling == "rows":
        problems.append("sampling: the service draws whole questions")
    if problems or isinstance(config.model, OpenAIConfig) or config.suite is None:
        raise ConfigError("\n".join(problems))
    decoding = config.decoding
    return {
        "model": Path(config.model.path).name,
        "suite": Path(config.suite).name,
        "judges": [judge_title(judge) for judge in config.judges],
        "protocol": config.protocol,
        "sample": config.sample,
        "seed": config.seed,
        "decoding": {
            "max_new_tokens": decoding.max_new_tokens,
            "temperature": decoding.temperature,
            "top_p": decoding.top_p,
            "seed": decoding.seed,
        },
    }
