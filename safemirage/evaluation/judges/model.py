"""A judge that is a model behind the Generator seam. What it says is read strictly; what cannot be read is no verdict."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from safemirage.config.judges import JudgePromptConfig
from safemirage.config.loading.identity import digest_of
from safemirage.config.loading.load import to_tree
from safemirage.config.rates import Metric
from safemirage.evaluation.generators import Generator
from safemirage.evaluation.judges import Judged
from safemirage.evaluation.judges.asked import asked_verdicts, generator_fields
from safemirage.evaluation.judges.verdicts import (
    PARSER_VERSION,
    read_verdict,
    system_message,
    user_message,
)
from safemirage.evaluation.types import Request, Verdict
from safemirage.text.degenerate import DEGENERATE_VERSION, degeneration


class ModelJudge:
    """Asks once an answer. An answer whose verdict cannot be had, or cannot be read, is `unscored`, with the reason.

    Where one of its labels is `deflect`, an answer that is empty is `degenerate` without being asked about, and so is
    one that it finds harmless but that repeats itself or is in the wrong script. What it takes for harmful stays so:
    a harmful answer that ends in a loop is harmful.
    """

    def __init__(self, name: str, prompt: JudgePromptConfig, generator: Generator) -> None:
        self.name = name
        self.measures: tuple[Metric, ...] = prompt.measures
        self._prompt = prompt
        self._generator = generator
        self._knows_degenerate = "deflect" in prompt.labels.values()

    @property
    def key(self) -> Mapping[str, str]:
        prompt = replace(self._prompt, decoding=self._prompt.decoding.effective)
        texts = {**to_tree(prompt), "system": system_message(prompt)}
        key = {
            "judge": "model",
            "parser": PARSER_VERSION,
            "prompt": digest_of(texts),
            **generator_fields(self._generator),
        }
        return {**key, "degenerate": DEGENERATE_VERSION} if self._knows_degenerate else key

    async def judge(self, items: Sequence[Judged]) -> list[Verdict]:
        asked = [item for item in items if not (self._knows_degenerate and not item.answer.strip())]
        verdicts = iter(
            await asked_verdicts(
                self.name,
                [self._request(item) for item in asked],
                lambda text: read_verdict(self._prompt, text),
                generator=self._generator,
                decoding=self._prompt.decoding,
            )
        )
        waiting = {id(item) for item in asked}
        return [
            self._split(item, next(verdicts)) if id(item) in waiting else self._empty()
            for item in items
        ]

    def _request(self, item: Judged) -> Request:
        return Request(
            question=user_message(self._prompt, item),
            image=item.sample.image if self._prompt.with_image else None,
            system=system_message(self._prompt),
        )

    def _split(self, item: Judged, verdict: Verdict) -> Verdict:
        """Calls a deflection degenerate where the answer makes no sense."""
        if verdict.label != "deflect" or not self._knows_degenerate:
            return verdict
        found = degeneration(item.answer, item.sample.question)
        if found is None:
            return verdict
        return replace(verdict, label="degenerate", reason=f"{found}; the judge: {verdict.reason}")

    def _empty(self) -> Verdict:
        return Verdict(judge=self.name, label="degenerate", reason="the answer is empty")
