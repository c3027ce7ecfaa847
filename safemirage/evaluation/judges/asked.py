"""Verdicts that a model is asked for. What cannot be had, or cannot be read, is `unscored`, with the reason."""

from collections.abc import Callable, Mapping, Sequence

from safemirage.config.generators import DecodingConfig
from safemirage.config.rates import Label
from safemirage.evaluation.cache_keys import INPUTS
from safemirage.evaluation.generators import Generator, GeneratorUnavailable, RequestRejected
from safemirage.evaluation.generators.asking import ask_each
from safemirage.evaluation.judges.verdicts import UnreadableVerdict
from safemirage.evaluation.types import Generation, Request, Verdict

Read = Callable[[str], tuple[Label, str]]
"""Label and reason from what the model said. Raises UnreadableVerdict."""


async def asked_verdicts(
    judge: str,
    requests: Sequence[Request],
    read: Read,
    *,
    generator: Generator,
    decoding: DecodingConfig,
    unreadable: Label | None = None,
) -> list[Verdict]:
    """One verdict a request, in order. Where the model cannot be reached, none is kept: it may be asked again.

    Args:
        unreadable: what `protocol: paper` takes an answer for whose verdict cannot be read.
    """
    try:
        answers = await ask_each(generator, requests, decoding)
    except GeneratorUnavailable as error:
        reason = f"the judge cannot be reached: {error}"
        return [Verdict(judge=judge, label="unscored", reason=reason, retry=True) for _ in requests]
    return [_verdict(judge, answer, read, unreadable) for answer in answers]


def generator_fields(generator: Generator) -> Mapping[str, str]:
    """What a judge's key holds of the model that it asks, its scope among it."""
    key = generator.key
    fields = {"inputs": INPUTS, **{f"generator.{name}": value for name, value in key.items()}}
    return {**fields, "scope": key["scope"]} if "scope" in key else fields


def _verdict(
    judge: str, answer: Generation | RequestRejected, read: Read, unreadable: Label | None
) -> Verdict:
    if isinstance(answer, RequestRejected):
        return Verdict(judge=judge, label="unscored", reason=f"the judge cannot answer: {answer}")
    try:
        label, reason = read(answer.text)
    except UnreadableVerdict as error:
        cut = " (cut off by the token limit)" if answer.finish_reason == "length" else ""
        reason = f"no verdict{cut}: {error}"
        return Verdict(judge=judge, label="unscored", reason=reason, paper_label=unreadable)
    return Verdict(judge=judge, label=label, reason=reason)
