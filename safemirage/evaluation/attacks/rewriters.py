"""Who rewrites questions: rules, or a model. One protocol; what cannot be rewritten is said, with the reason."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from safemirage.config.attack import NEUTRAL
from safemirage.evaluation.types import Sample
from safemirage.text.first_word import first_word

OnRewritten = Callable[[int, int], None]
"""Called with rewrites made and rewrites in all."""


@dataclass(frozen=True)
class Rewrite:
    text: str
    form: str
    """How it was made: a form of the rules (`transform`, `carrier`, `prefix`), or `model`."""


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
