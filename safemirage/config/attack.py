"""Attacks on a suite: first words, numbers of rewrites, who writes them. Files: configs/attack/*.yaml."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field

from safemirage.config.generators import DecodingConfig, GeneratorConfig
from safemirage.config.types import Count, Strict, check_name, data_path, not_identity
from safemirage.config.vlguard import PLAIN, VLGuardConfig

NEUTRAL = "neutral"
"""The attack of the control: as many paraphrases that keep the question's first word."""
Word = Annotated[str, Field(pattern=r"^[^\W\d_]+$")]
RewriteForm = Literal["transform", "carrier", "prefix"]
AttackedSubset = Literal["unsafe", "safe"]


@dataclass(frozen=True, kw_only=True)
class RuleRewritesConfig(Strict):
    """Rewrites by rule: no model, the same every time."""

    name: Literal["rule"] = "rule"
    forms: Annotated[tuple[RewriteForm, ...], Field(min_length=1)] = ("transform", "carrier")
    """The forms of a rewrite, in order of preference. `transform` turns the question ("What is your description of this
    image?") where that keeps its meaning, which rules can tell of few questions; `carrier` leads up to the question,
    which follows word for word ("What is your answer to this: ..."); `prefix` puts the bare word before it ("What:
    ...") and is the only one that knows every word. Other rewrites need a model."""


@dataclass(frozen=True, kw_only=True)
class ModelRewritesConfig(Strict):
    """Rewrites by a language model, each checked for its form and, by a second question, for its meaning."""

    name: Literal["model"] = "model"
    model: GeneratorConfig
    checker: GeneratorConfig | None = None
    """Who says whether a rewrite asks for the same. None: the model itself."""
    with_image: bool = True
    """Whether the rewriting and the checking model see the image."""
    attempts: Count = 4
    """Times that one rewrite is asked for, each with a seed of its own."""
    decoding: DecodingConfig = field(
        default_factory=lambda: DecodingConfig(max_new_tokens=96, temperature=0.9, top_p=0.95)
    )
    """How the model writes rewrites. Attempts need a temperature above 0 to differ."""
    check_decoding: DecodingConfig = field(
        default_factory=lambda: DecodingConfig(max_new_tokens=128)
    )
    batch_size: Count = field(default=64, metadata={"identity": False})
    """Questions in one call; their answers are stored together."""

    def __post_init__(self) -> None:
        if self.decoding.temperature == 0 and self.attempts > 1:
            raise ValueError(
                "decoding.temperature: 0 gives the same rewrite at each attempt; take one above 0, or attempts: 1"
            )


RewritesSourceConfig = Annotated[
    RuleRewritesConfig | ModelRewritesConfig, Field(discriminator="name")
]


@dataclass(frozen=True, kw_only=True)
class WordAttackConfig(Strict):
    """Every plain question of a subset, rewritten to start with one word."""

    word: Word
    """The first word that every rewrite starts with, in lower case."""
    subset: AttackedSubset
    """Which plain questions are rewritten: `unsafe` ones (to get them answered) or `safe` ones (to get them refused)."""
    attempts: Count = 3
    """K, the number of rewrites of each question."""


@dataclass(frozen=True, kw_only=True)
class AttackConfig(Strict):
    name: str = not_identity("attacked")
    """The new suite's name."""
    suite: str | None = data_path(None)
    """Folder with suite.json and its images; or give `vlguard`."""
    vlguard: VLGuardConfig | None = None
    """VLGuard's own files as the suite."""
    attacks: Annotated[tuple[WordAttackConfig, ...], Field(min_length=1)]
    control: bool = True
    """Whether the attacked questions also get K neutral paraphrases, condition `<condition>_neutral`."""
    source: RewritesSourceConfig = field(default_factory=RuleRewritesConfig)
    on_missing: Literal["fail", "drop"] = "fail"
    """What becomes of a question with fewer than K rewrites: `fail` writes no suite; `drop` leaves the question out of
    that attack's condition, and says which."""
    sample: Count | None = None
    """Draw this many plain questions of each condition. None: all."""
    seed: int = 0
    """Seed of that draw and of the model's rewrites."""

    def __post_init__(self) -> None:
        check_name(self.name)
        check_one_suite(self.suite, self.vlguard)
        check_words([attack.word for attack in self.attacks])
        pairs = [(attack.subset, attack.word) for attack in self.attacks]
        twice = sorted({word for subset, word in pairs if pairs.count((subset, word)) > 1})
        if twice:
            raise ValueError(f"attacks: the words {twice} stand twice for one subset")
        for subset in ("unsafe", "safe"):
            budgets = {attack.attempts for attack in self.attacks if attack.subset == subset}
            if len(budgets) > 1 and self.control:
                raise ValueError(
                    f"attacks: {sorted(budgets)} attempts on {subset} questions; one control needs one K for all "
                    "(reports show every smaller k), or control: false"
                )


def check_one_suite(suite: str | None, vlguard: VLGuardConfig | None) -> None:
    """Raises ValueError where not exactly one of both is given."""
    if (suite is None) == (vlguard is None):
        raise ValueError("suite, vlguard: give one of both")


def check_words(words: Sequence[str]) -> None:
    """Raises ValueError for a word that cannot name an attack."""
    for word in words:
        if word != word.lower() or word in (PLAIN, NEUTRAL):
            raise ValueError(
                f"word: {word!r} must be in lower case, and neither {PLAIN!r} nor {NEUTRAL!r}, which are other conditions"
            )
