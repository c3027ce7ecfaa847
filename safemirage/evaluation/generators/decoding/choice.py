"""Chooses each row's next token: the greatest logit, or a draw from a random generator of the row's own.

A draw is made by the Gumbel trick: the greatest of log-probability plus noise is a sample of the distribution. So a
row's draws follow from its seed, whatever rows stand beside it.
"""

import math
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


class RowChoice:
    """A row that may say one of a few texts only. It is decided as soon as one text is left: mostly by the first token.

    Each step leaves those texts that go on with the likeliest of the tokens with which one of them goes on. So it says
    what greedy decoding would that is kept to the texts.
    """

    def __init__(self, texts: Sequence[tuple[int, ...]]) -> None:
        """No text may begin another."""
        self._texts = texts
        self._left = list(range(len(texts)))
        self._mass = 1.0
        self.probabilities = [1.0 if len(texts) == 1 else 0.0 for _ in texts]
        """Of each text, among them all. Texts that part from each other only behind a token that was not chosen share
        its probability evenly: it was not looked further."""
        self.share = 1.0
        """The probability that the model goes on with one of the texts, rather than with anything else."""
        self.steps = 0

    @property
    def place(self) -> int | None:
        """The text that is said; None while several are left."""
        return self._left[0] if len(self._left) == 1 else None

    @property
    def tokens(self) -> list[int]:
        """The tokens of which the next one is taken."""
        return list(dict.fromkeys(self._texts[place][self.steps] for place in self._left))

    def take(self, logprobs: Mapping[int, float]) -> int:
        """The next token, by the logarithms of the probabilities that `tokens` have among all tokens."""
        weights = {token: math.exp(logprobs[token]) for token in self.tokens}
        total = sum(weights.values()) or math.ulp(0.0)
        self.share *= total
        branches: dict[int, list[int]] = {token: [] for token in weights}
        for place in self._left:
            branches[self._texts[place][self.steps]].append(place)
        for token, places in branches.items():
            for place in places:
                self.probabilities[place] = self._mass * weights[token] / total / len(places)
        best = max(weights, key=weights.__getitem__)
        self._mass *= weights[best] / total
        self._left = branches[best]
        self.steps += 1
        return best

    def weigh(self, logits_V: Tensor) -> Tensor:
        """The logits with which the next token is one that the row may say; a row that is decided says anything."""
        if self.place is not None and self.steps:
            return logits_V
        tokens = self.tokens
        found = logits_V.float().log_softmax(dim=-1)[tokens].tolist()
        token = self.take(dict(zip(tokens, found, strict=True)))
        kept_V = torch.full_like(logits_V, -torch.inf)
        kept_V[token] = 0.0
        return kept_V

    def hear(self, token: int, logits_V: Tensor) -> bool:
        """Whether the answer ends by this token."""
        return self.place is not None
