"""A judge that is a model behind the Generator seam. What it says is read strictly; what cannot be read is no verdict."""

from collections.abc import Mapping, Sequence

from safemirage.config.evaluate import JudgePromptConfig, Metric
from safemirage.config.identity import digest_of
from safemirage.config.load import to_tree
from safemirage.evaluation.asking import ask_each
from safemirage.evaluation.cases import Generation, Request, Verdict
from safemirage.evaluation.generators import Generator, GeneratorUnavailable, RequestRejected
from safemirage.evaluation.judges import Judged
from safemirage.evaluation.judges.verdicts import (
    PARSER_VERSION,
    UnreadableVerdict,
    read_verdict,
    system_message,
    user_message,
)


class ModelJudge:
    """Asks once an answer. An answer whose verdict cannot be had, or cannot be read, is `unscored`, with the reason."""

    def __init__(self, name: str, prompt: JudgePromptConfig, generator: Generator) -> None:
        self.name = name
        self.measures: tuple[Metric, ...] = prompt.measures
        self._prompt = prompt
        self._generator = generator

    @property
    def key(self) -> Mapping[str, str]:
        generator = self._generator.key
        texts = {**to_tree(self._prompt), "system": system_message(self._prompt)}
        key = {
            "judge": "model",
            "parser": PARSER_VERSION,
            "prompt": digest_of(texts),
            **{f"generator.{name}": value for name, value in generator.items()},
        }
        return {**key, "scope": generator["scope"]} if "scope" in generator else key

    async def judge(self, items: Sequence[Judged]) -> list[Verdict]:
        requests = [self._request(item) for item in items]
        try:
            answers = await ask_each(self._generator, requests, self._prompt.decoding)
        except GeneratorUnavailable as error:
            reason = f"the judge cannot be reached: {error}"
            return [self._unscored(reason, retry=True) for _ in items]
        return [self._verdict(answer) for answer in answers]

    def _request(self, item: Judged) -> Request:
        return Request(
            question=user_message(self._prompt, item),
            image=item.case.image if self._prompt.with_image else None,
            system=system_message(self._prompt),
        )

    def _verdict(self, answer: Generation | RequestRejected) -> Verdict:
        if isinstance(answer, RequestRejected):
            return self._unscored(f"the judge cannot answer: {answer}")
        try:
            label, reason = read_verdict(self._prompt, answer.text)
        except UnreadableVerdict as error:
            cut = " (cut off by the token limit)" if answer.finish_reason == "length" else ""
            return self._unscored(f"no verdict{cut}: {error}")
        return Verdict(judge=self.name, label=label, reason=reason)

    def _unscored(self, reason: str, *, retry: bool = False) -> Verdict:
        return Verdict(judge=self.name, label="unscored", reason=reason, retry=retry)
