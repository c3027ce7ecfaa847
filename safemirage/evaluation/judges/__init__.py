"""Judges label answers. One protocol; one module a judge."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from safemirage.evaluation.cases import Case, Verdict


@dataclass(frozen=True, kw_only=True)
class Judged:
    """An answer to judge, with the case that it answers."""

    case: Case
    answer: str


class Judge(Protocol):
    name: str

    @property
    def key(self) -> Mapping[str, str]:
        """All that decides a verdict beside case and answer: model, prompt, parser, word list."""

    async def judge(self, items: Sequence[Judged]) -> list[Verdict]:
        """One verdict an item, in order. An item that cannot be judged is `unscored`, with the reason."""
