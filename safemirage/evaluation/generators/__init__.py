"""Generators answer questions. One protocol; one module an engine, imported on use."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from safemirage.config.evaluate import DecodingConfig
from safemirage.evaluation.cases import Generation, Request


class Generator(Protocol):
    """Something that answers questions about images."""

    @property
    def key(self) -> Mapping[str, str]:
        """All that decides an answer beside request and decoding: weights digest, dtype, processor digest,
        engine and version. The sample store's keys hold it, so it must change when answers may."""

    async def generate(self, requests: Sequence[Request], decoding: DecodingConfig) -> list[Generation]:
        """One answer a request, in order. An answer that cannot be had is raised, never made up."""
