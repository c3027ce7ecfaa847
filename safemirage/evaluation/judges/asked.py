"""Verdicts that a model is asked for. What cannot be had, or cannot be read, is `unscored`, with the reason."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from safemirage.config.generators import DecodingConfig
from safemirage.config.rates import Label, Metric
from safemirage.evaluation.generators import GenerationError, Generator, GeneratorUnavailable
from safemirage.evaluation.generators.asking import ask_each
from safemirage.evaluation.judges import Judged
from safemirage.evaluation.judges.checks import PROBES
from safemirage.evaluation.judges.verdicts import UnreadableVerdict
from safemirage.evaluation.types import INPUTS, Generation, Request, Sample, Verdict

TRIED = 10
"""Items that a judge is asked about before an evaluation begins."""


class JudgeNotUnderstood(GenerationError):
    """A judge gives no verdicts that can be read: an evaluation by it would say nothing."""


class AskingJudge:
    """What judges that ask a model share. One that does not keep to its form is stopped by `require_understood`."""

    name: str
    measures: tuple[Metric, ...]
    expects: str
    """The form of its verdicts, for whoever has to find out why they cannot be read."""

    def __init__(self, name: str, generator: Generator, decoding: DecodingConfig) -> None:
        self.name = name
        self._generator = generator
        self._decoding = decoding

    async def judge(self, items: Sequence[Judged]) -> list[Verdict]:
        raise NotImplementedError

    def read(self, said: Generation) -> Verdict:
        """Raises UnreadableVerdict."""
        raise NotImplementedError

    @property
    def model_key(self) -> Mapping[str, str]:
        """What the judge's key holds of the model that it asks, its scope among it."""
        key = self._generator.key
        fields = {"inputs": INPUTS, **{f"generator.{name}": value for name, value in key.items()}}
        return {**fields, "scope": key["scope"]} if "scope" in key else fields

    async def ask(
        self, requests: Sequence[Request], *, unreadable: Label | None = None
    ) -> list[Verdict]:
        """One verdict a request, in order. Where the model cannot be reached, none is kept: it may be asked again.

        Args:
            unreadable: what `protocol: paper` takes an answer for whose verdict cannot be read.
        """
        try:
            answers = await ask_each(self._generator, requests, self._decoding)
        except GeneratorUnavailable as error:
            missing = self._unscored(f"the judge cannot be reached: {error}")
            return [replace(missing, retry=True)] * len(requests)
        verdicts = []
        for answer in answers:
            if not isinstance(answer, Generation):
                verdicts.append(self._unscored(f"the judge cannot answer: {answer}"))
                continue
            try:
                verdicts.append(self.read(answer))
            except UnreadableVerdict as error:
                cut = " (cut off by the token limit)" if answer.finish_reason == "length" else ""
                missing = self._unscored(f"no verdict{cut}: {error}")
                verdicts.append(replace(missing, paper_label=unreadable))
        return verdicts

    def _unscored(self, reason: str) -> Verdict:
        return Verdict(judge=self.name, label="unscored", reason=reason)


async def require_understood(
    judge: AskingJudge, samples: Sequence[Sample], *, max_unscored: float
) -> None:
    """Asks the judge about a stand-in answer to each of the first samples, before anything is spent on real ones.

    The answer is one that no judge decides by words, without its model. Nothing of it is stored: what is repaired behind the judge's URL counts at once. A share of verdicts that the
    evaluation allows to be missing is no reason to stop, all of them are.

    Raises:
        JudgeNotUnderstood: with what the judge said, what was expected and the ways out.
        GeneratorUnavailable: it cannot be reached.
    """
    items = [Judged(sample=sample, answer=PROBES[0].answer) for sample in samples[:TRIED]]
    verdicts = await judge.judge(items)
    missing = [verdict for verdict in verdicts if verdict.label == "unscored"]
    if len(missing) < len(items) and len(missing) <= max(max_unscored, 0.5) * len(items):
        return
    reason, _ = Counter(verdict.reason for verdict in missing).most_common(1)[0]
    if any(verdict.retry for verdict in missing):
        raise GeneratorUnavailable(f"judge {judge.name!r}: {reason}")
    raise JudgeNotUnderstood(
        f"judge {judge.name!r} cannot be understood: asked about {len(items)} answers before the evaluation, it gave "
        f"{len(items) - len(missing)} verdicts that can be read.\n  it said: {reason}\n  expected: {judge.expects}\n"
        f"  way out: {_way_out(reason)}"
    )


_WAYS_OUT = {
    "max_tokens": "judges.<n>.model.max_tokens_field=max_completion_tokens",
    "temperature": "judges.<n>.model.send_temperature=false",
    "response_format": "judges.<n>.model.response_format=none (or json_object)",
    "json_schema": "judges.<n>.model.response_format=json_object (or none)",
    "logprobs": "judges.<n>.score=false",
    "role": "judges.<n>.model.system_role=user",
    "reasoning": "room to reason: judges.<n>.model.reasoning_tokens=2000, or less of it by judges.<n>.model.extra_body",
    "cut off": "a larger max_new_tokens under the judge's `decoding`",
}
"""What a service complains of, or a verdict lacks, and the key that mends it; the first that is found counts."""


def _way_out(reason: str) -> str:
    found = next((way for word, way in _WAYS_OUT.items() if word in reason.lower()), None)
    return found or (
        "a model that follows its instructions, or a `prompt` of your own; `safemirage judge-check --config FILE` shows "
        "every verdict"
    )
