"""One evaluation: which model, suite and judges, and how answers are decoded. Files: configs/evaluate/*.yaml.

`generators.py` has the models, `judges.py` the judges, `vlguard.py` and `sets.py` the public suites.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from safemirage.config.generators import DecodingConfig, GeneratorConfig
from safemirage.config.judges import JudgeConfig, KeywordsJudgeConfig, check_judge_names
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


def suite_name(config: EvaluateConfig) -> str:
    """What tables and progress call the suite."""
    if config.set is not None:
        return config.set.name
    return "vlguard" if config.suite is None else Path(config.suite).name
