"""A generator whose answers a function gives: for trying out judges, suites and reports without a model."""

from collections.abc import Callable, Mapping, Sequence

from safemirage.config.generators import DecodingConfig
from safemirage.evaluation.types import Generation, Request

Script = Callable[[Request], str]
"""The answer to a request; may raise RequestRejected or GeneratorUnavailable, as a model's would."""


class ScriptedGenerator:
    """Counts what it is asked. `version` must change when the script does: the sample store's keys hold it."""

    def __init__(self, script: Script, *, version: str) -> None:
        self._script = script
        self._version = version
        self.batches: list[int] = []
        """The size of each call so far."""

    @property
    def key(self) -> Mapping[str, str]:
        return {"engine": "scripted", "version": self._version}

    async def generate(
        self, requests: Sequence[Request], decoding: DecodingConfig
    ) -> list[Generation]:
        self.batches.append(len(requests))
        return [self._answer(request, decoding) for request in requests]

    def _answer(self, request: Request, decoding: DecodingConfig) -> Generation:
        words = self._script(request).split(" ")
        kept = words[: decoding.max_new_tokens]
        return Generation(
            text=" ".join(kept),
            prompt_tokens=len(request.question.split()),
            completion_tokens=len(kept),
            finish_reason="stop" if len(kept) == len(words) else "length",
        )
