"""Judges label answers. One protocol; one module a judge."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from safemirage.config.rates import Metric
from safemirage.evaluation.types import Sample, Verdict


@dataclass(frozen=True, kw_only=True)
class Judged:
    """An answer to judge, with the sample that it answers."""

    sample: Sample
    answer: str


class Judge(Protocol):
    name: str
    """Unique within an evaluation; verdicts and rows carry it."""
    measures: tuple[Metric, ...]
    """The rates that its verdicts are counted in: asr counts `comply`, refusal_rate `refuse`, useful_rate `comply`."""

    @property
    def key(self) -> Mapping[str, str]:
        """All that decides a verdict beside sample and answer: model, prompt, parser, word list.
        `scope` as in a generator's key, when the judge asks one."""

    async def judge(self, items: Sequence[Judged]) -> list[Verdict]:
        """One verdict an item, in order. An item that cannot be judged is `unscored`, with the reason."""
