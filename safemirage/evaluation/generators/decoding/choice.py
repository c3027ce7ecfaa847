"""Chooses each row's next token: the greatest logit, or a draw from a random generator of the row's own.

A draw is made by the Gumbel trick: the greatest of log-probability plus noise is a sample of the distribution. So a
row's draws follow from its seed, whatever rows stand beside it.
"""

from collections.abc import Mapping, Sequence

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
    logits_BV: Tensor,
    generators: Sequence[torch.Generator],
    decodings: Sequence[DecodingConfig],
) -> list[int]:
    """The next token of each row, by its own decoding; `generators` are read when sampling only."""
    tokens: list[int] = logits_BV.argmax(dim=-1).tolist()
    alike: dict[tuple[float, float], list[int]] = {}
    for place, decoding in enumerate(decodings):
        if decoding.temperature > 0:
            alike.setdefault((decoding.temperature, decoding.top_p), []).append(place)
    for places in alike.values():
        drawn_BV = logits_BV[places]
        sampler = RowSampler([generators[place] for place in places], decodings[places[0]])
        # The rows' ids are not looked at by top-p.
        for place, token in zip(
            places, sampler(drawn_BV[:, :0], drawn_BV).argmax(dim=-1).tolist(), strict=True
        ):
            tokens[place] = token
    return tokens


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def penalised(
    logits_V: Tensor, counts: Mapping[int, int], *, frequency: float, presence: float
) -> Tensor:
    """OpenAI's penalties: frequency for each time that the answer has said a token, presence once for each."""
    if not counts or (frequency == 0 and presence == 0):
        return logits_V
    places = torch.tensor(list(counts), device=logits_V.device)
    said = torch.tensor(list(counts.values()), device=logits_V.device, dtype=logits_V.dtype)
    return logits_V.index_add(0, places, -(frequency * said + presence))


def likeliest(logits_V: Tensor, token: int, count: int) -> tuple[float, list[tuple[int, float]]]:
    """The log-probability of a token, and the most likely tokens with theirs."""
    logprobs_V = logits_V.float().log_softmax(dim=-1)
    values, ids = logprobs_V.topk(min(count, len(logprobs_V)))
    return float(logprobs_V[token]), list(zip(ids.tolist(), values.tolist(), strict=True))
