"""Chooses each row's next token: the greatest logit, or a draw from a random generator of the row's own.

A draw is made by the Gumbel trick: the greatest of log-probability plus noise is a sample of the distribution. So a
row's draws follow from its seed, whatever rows stand beside it.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList, TopPLogitsWarper

from safemirage.config.generators import DecodingConfig


class RowSampler(LogitsProcessor):
    """Scores whose greatest entry is the draw; usable as a processor of transformers' `generate`."""

    def __init__(self, generators: Sequence[torch.Generator], decoding: DecodingConfig) -> None:
        self._generators = generators
        self._temperature = decoding.temperature
        self._top_p = TopPLogitsWarper(decoding.top_p) if decoding.top_p < 1 else None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        scores_BV = scores.float() / self._temperature
        if self._top_p is not None:
            scores_BV = self._top_p(input_ids, scores_BV)
        size = scores_BV.shape[-1]
        waits_BV = torch.stack(
            [torch.empty(size).exponential_(generator=one) for one in self._generators]
        )
        return scores_BV - waits_BV.to(scores_BV.device).log()


def sampling_processors(seeds: Sequence[int], decoding: DecodingConfig) -> LogitsProcessorList:
    """For `generate` without sampling of its own; empty when greedy."""
    if decoding.temperature == 0:
        return LogitsProcessorList()
    return LogitsProcessorList([RowSampler([seeded(seed) for seed in seeds], decoding)])


def next_tokens(
    logits_BV: Tensor, generators: Sequence[torch.Generator], decoding: DecodingConfig
) -> list[int]:
    """The next token of each row; `generators` are read when sampling only."""
    if decoding.temperature > 0:
        # The rows' ids are not looked at by top-p.
        logits_BV = RowSampler(generators, decoding)(logits_BV[:, :0], logits_BV)
    tokens: list[int] = logits_BV.argmax(dim=-1).tolist()
    return tokens


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
