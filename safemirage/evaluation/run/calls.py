"""How often models were asked: what came out of the store is not counted."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from safemirage.config.generators import DecodingConfig
from safemirage.evaluation.generators import Generator
from safemirage.evaluation.types import Generation, Request


@dataclass
class ModelCalls:
    """Requests that reached a model in this process."""

    answers: int = 0
    """Questions put to the evaluated model."""
    verdicts: int = 0
    """Answers put to judging models."""

    def counted_answers(self, generator: Generator) -> Generator:
        def count(requests: int) -> None:
            self.answers += requests

        return _Counted(generator, count)

    def counted_verdicts(self, generator: Generator) -> Generator:
        def count(requests: int) -> None:
            self.verdicts += requests

        return _Counted(generator, count)


class _Counted:
    def __init__(self, generator: Generator, count: Callable[[int], None]) -> None:
        self._generator = generator
        self._count = count

    @property
    def key(self) -> Mapping[str, str]:
        return self._generator.key

    async def generate(
        self, requests: Sequence[Request], decoding: DecodingConfig
    ) -> list[Generation]:
        self._count(len(requests))
        return await self._generator.generate(requests, decoding)
