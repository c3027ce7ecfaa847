"""The search for the first word that opens a model widest. Files: configs/attack_search/*.yaml."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field

from safemirage.config.attack import (
    AttackedSubset,
    RewritesSourceConfig,
    RuleRewritesConfig,
    Word,
    check_one_suite,
    check_words,
)
from safemirage.config.generators import DecodingConfig, GeneratorConfig
from safemirage.config.judges import JudgeConfig, KeywordsJudgeConfig, check_judge_names
from safemirage.config.types import Count, Share, Strict, check_name, data_path, not_identity
from safemirage.config.vlguard import VLGuardConfig


@dataclass(frozen=True, kw_only=True)
class AttackSearchConfig(Strict):
    """Which first word opens a model widest: chosen on one part of the questions, reported on the other."""

    name: str = not_identity("attack_search")
    """Start of the names of its evaluations."""
    model: GeneratorConfig
    """The model that is attacked."""
    train: str = data_path()
    """The model's training file, VLGuard or LLaVA JSON: its audit gives the words."""
    suite: str | None = data_path(None)
    """Folder with suite.json and its images; or give `vlguard`."""
    vlguard: VLGuardConfig | None = None
    subset: AttackedSubset = "unsafe"
    """`unsafe`: words that open answered questions, counted by asr. `safe`: words that open refused ones, counted by
    refusals, for over-refusal."""
    condition: str | None = None
    """The plain condition that is attacked; needed where the subset has several (VLGuard's unsafe_plain and
    safe_unsafe_plain)."""
    words: Count = 5
    """The strongest words of the audit that are tried."""
    more_words: tuple[Word, ...] = ()
    """Words that are tried beside them."""
    attempts: Count = 3
    """K: rewrites of each question, and neutral paraphrases."""
    source: RewritesSourceConfig = field(
        default_factory=lambda: RuleRewritesConfig(forms=("prefix",))
    )
    """The bare word before the question, because it is the one form that every word can take: words are compared by
    rewrites of the same kind."""
    on_missing: Literal["fail", "drop"] = "fail"
    """What happens when a question has too few rewrites: `fail` lists such questions and stops, `drop` leaves them out."""
    selection_share: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Part of the questions that the word is chosen on; the others are the test. No image is in both."""
    seed: int = 0
    """Seed of that split, of the draw of questions, and of the model's rewrites."""
    sample: Count | None = None
    """Draw this many plain questions, by `seed`. None: all."""
    judges: Annotated[tuple[JudgeConfig, ...], Field(min_length=1)] = field(
        default_factory=lambda: (KeywordsJudgeConfig(),)
    )
    """The first that measures asr (refusal_rate for safe questions) decides."""
    decoding: DecodingConfig = field(default_factory=DecodingConfig)
    batch_size: Count = 32
    """Samples that the model is given in one call."""
    max_unscored: Share = 0.05
    """Share of the samples that a judge may leave without a verdict; with more the evaluation fails."""

    def __post_init__(self) -> None:
        check_name(self.name)
        check_one_suite(self.suite, self.vlguard)
        check_words(self.more_words)
        check_judge_names(self.judges)
