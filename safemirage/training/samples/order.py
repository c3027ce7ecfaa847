"""One global order of samples per seed, and how a step's batch is shared out: pure functions of (seed, step)."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from safemirage.config.loading.load import ConfigError

_WINDOW_BATCHES = 50
"""Batches that are sorted together. More would save little padding and mix lengths less over a pass."""


@dataclass(frozen=True, kw_only=True)
class GlobalOrder:
    """Endless passes over a set, each freshly shuffled. The same for every number of workers; nothing to save."""

    num_samples: int
    batch_size: int
    """Samples of one optimizer step, over all workers and accumulation steps."""
    seed: int
    stream: str
    """Sets of one run (`retain`, `forget`) are shuffled apart by it."""
    lengths: tuple[int, ...] | None = None
    """Tokens of each sample; given, samples of like length come into one step."""

    def __post_init__(self) -> None:
        if self.num_samples < 1:
            raise ValueError(f"{self.stream}: no samples to draw from")

    def step_indices(self, step: int) -> list[int]:
        """The samples of a step (0-based): `batch_size` indices into the set, passes following on each other."""
        start, size = step * self.batch_size, self.num_samples
        end = start + self.batch_size
        # A step may lie across the end of one pass and the beginning of the next, or several.
        passes = {number: self._pass(number) for number in range(start // size, -(-end // size))}
        return [passes[position // size][position % size] for position in range(start, end)]

    def _pass(self, number: int) -> tuple[int, ...]:
        if self.lengths is None:
            return _pass_order(self.seed, self.stream, number, self.num_samples)
        return _grouped_order(self, number)


@lru_cache(maxsize=8)
def _grouped_order(order: GlobalOrder, number: int) -> tuple[int, ...]:
    assert order.lengths is not None
    shuffled = _pass_order(order.seed, order.stream, number, order.num_samples)
    return group_by_length(
        shuffled,
        order.lengths,
        batch_size=order.batch_size,
        # What the pass before left of its last batch is filled up first.
        offset=-number * order.num_samples % order.batch_size,
        generator=np.random.default_rng([order.seed, zlib.crc32(b"batches"), number]),
    )


@lru_cache(maxsize=8)
def _pass_order(seed: int, stream: str, number: int, num_samples: int) -> tuple[int, ...]:
    # crc32 rather than hash(), which differs between processes.
    generator = np.random.default_rng([seed, zlib.crc32(stream.encode()), number])
    return tuple(generator.permutation(num_samples).tolist())


def group_by_length(
    order: Sequence[int],
    lengths: Sequence[int],
    *,
    batch_size: int,
    offset: int,
    generator: np.random.Generator,
) -> tuple[int, ...]:
    """The samples of a shuffled pass, rearranged: each batch of like length, longest first, the batches in random order.

    As in LLaVA's `group_by_modality_length`, batches of text alone form of themselves, because image tokens count.

    Args:
        order: one pass, a permutation of the set.
        lengths: tokens of each sample of the set.
        offset: samples at the start that fill up the batch that the pass before began.
    """
    window = _WINDOW_BATCHES * batch_size
    grouped = _sorted(order[:offset], lengths)
    for start in range(offset, len(order), window):
        by_length = _sorted(order[start : start + window], lengths)
        batches = [
            by_length[first : first + batch_size] for first in range(0, len(by_length), batch_size)
        ]
        # A last batch that is not full stays last: the next pass fills it up.
        full = [batch for batch in batches if len(batch) == batch_size]
        for index in generator.permutation(len(full)).tolist():
            grouped += full[index]
        for batch in batches[len(full) :]:
            grouped += batch
    return tuple(grouped)


def _sorted(indices: Sequence[int], lengths: Sequence[int]) -> list[int]:
    return sorted(indices, key=lambda index: -lengths[index])


@dataclass(frozen=True, kw_only=True)
class Division:
    """How a step's batch is cut into micro-batches."""

    batch_size: int
    world: int
    accumulation: int
    group_size: int = 1
    """Consecutive samples of the global order that must stay in one micro-batch."""

    def __post_init__(self) -> None:
        parts = self.world * self.accumulation
        if self.batch_size % parts:
            raise ConfigError(
                f"optim.batch_size: {self.batch_size!r} does not divide among workers.count={self.world} x "
                f"optim.accumulation={self.accumulation}; it must be a multiple of {parts}"
            )
        if self.micro_size % self.group_size:
            raise ConfigError(
                f"method.group_size: {self.group_size!r} does not divide a micro-batch of {self.micro_size} "
                f"(optim.batch_size={self.batch_size} / workers.count={self.world} / "
                f"optim.accumulation={self.accumulation}), and a group may not be split"
            )

    @property
    def micro_size(self) -> int:
        """Samples of one forward pass of one worker."""
        return self.batch_size // (self.world * self.accumulation)

    def share(self, indices: Sequence[int], rank: int) -> list[list[int]]:
        """A worker's micro-batches of a step: consecutive slices of the global batch."""
        # Slices next to each other make the same micro-batches wherever workers x accumulation is the same.
        first = rank * self.accumulation * self.micro_size
        return [
            list(indices[start : start + self.micro_size])
            for start in range(first, first + self.accumulation * self.micro_size, self.micro_size)
        ]


def draw_subset(num_samples: int, limit: int | None, seed: int) -> list[int]:
    """`limit` distinct indices in rising order, by seed; all of them without a limit.

    Raises:
        ConfigError: the set has fewer samples than that.
    """
    if limit is None:
        return list(range(num_samples))
    if limit > num_samples:
        raise ConfigError(
            f"data.retain_limit: {limit!r}, but the set has {num_samples} records; lower it or leave it out"
        )
    generator = np.random.default_rng([seed, zlib.crc32(b"subset")])
    return sorted(generator.choice(num_samples, size=limit, replace=False).tolist())
