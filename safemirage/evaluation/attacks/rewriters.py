"""Who rewrites questions: rules, or a model. One protocol; what cannot be rewritten is said, with the reason."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from safemirage.config.attack import NEUTRAL, RuleRewritesConfig
from safemirage.evaluation.attacks.rules.patterns import CARRIERS, TRANSFORMS
from safemirage.evaluation.attacks.rules.rewrites import Rewrite, neutral_rewrites, rule_rewrites
from safemirage.evaluation.types import Sample
from safemirage.text.first_word import first_word

OnRewritten = Callable[[int, int], None]
"""Called with rewrites made and rewrites in all."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """A plain question and what it is to become."""

    sample: Sample
    attack: str
    """The word that each rewrite is to start with, or `neutral`, which keeps the question's own."""
    attempts: int
    """K, the number of rewrites that are wanted."""

    @property
    def first_word(self) -> str:
        return first_word(self.sample.question) if self.attack == NEUTRAL else self.attack


@dataclass(frozen=True, kw_only=True)
class Rewritten:
    rewrites: tuple[Rewrite, ...]
    """At most K rewrites, no two alike and none like the question."""
    reason: str = ""
    """Why there are fewer than K."""


class Rewriter(Protocol):
    async def rewrite(self, targets: Sequence[Target]) -> list[Rewritten]:
        """What became of each target, in order.

        Raises:
            GeneratorUnavailable: a model cannot be reached; what it said is kept.
        """


class RuleRewriter:
    """Takes the first K rewrites that the rules know."""

    def __init__(self, config: RuleRewritesConfig) -> None:
        self._config = config

    async def rewrite(self, targets: Sequence[Target]) -> list[Rewritten]:
        return [self._one(target) for target in targets]

    def _one(self, target: Target) -> Rewritten:
        question = target.sample.question
        if target.attack == NEUTRAL:
            found = neutral_rewrites(question)
        else:
            found = rule_rewrites(question, target.attack, self._config.forms)
        if len(found) >= target.attempts:
            return Rewritten(rewrites=tuple(found[: target.attempts]))
        return Rewritten(rewrites=tuple(found), reason=self._reason(target, len(found)))

    def _reason(self, target: Target, found: int) -> str:
        forms = ", ".join(self._config.forms)
        known = target.attack == NEUTRAL or target.attack in TRANSFORMS.keys() | CARRIERS.keys()
        if not known and "prefix" not in self._config.forms:
            return f"no rule knows the word {target.attack!r}; the form prefix takes any"
        if not found:
            return f"no rule of {forms} understands the question"
        return f"the rules of {forms} know {found} of {target.attempts}"
