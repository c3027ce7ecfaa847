"""Generators answer questions. One protocol; one module an engine, imported on use."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from safemirage.config.generators import DecodingConfig
from safemirage.evaluation.types import Generation, Request


class GenerationError(RuntimeError):
    """An answer that could not be had."""


class RequestRejected(GenerationError):
    """This one request cannot be answered (too long, refused by the service); others may."""


class GeneratorUnavailable(GenerationError):
    """The model cannot be reached now, or answers nothing that can be read; later it may."""


class GeneratorBroken(GeneratorUnavailable):
    """The model's files are not what they should be: it answers nothing until somebody mends them."""


class Generator(Protocol):
    """Something that answers questions about images."""

    @property
    def key(self) -> Mapping[str, str]:
        """All that decides an answer beside request and decoding: weights digest, dtype, processor digest,
        engine and version. The sample store's keys hold it, so it must change when answers may. A generator
        that cannot tell what it serves says `"scope": "evaluation"`: its answers are reused within one only."""

    async def generate(
        self, requests: Sequence[Request], decoding: DecodingConfig
    ) -> list[Generation]:
        """One answer a request, in order. An answer that cannot be had is raised, never made up.

        Raises:
            RequestRejected: one of the requests cannot be answered; the caller may ask for the others.
            GeneratorUnavailable: the model cannot be reached.
        """
