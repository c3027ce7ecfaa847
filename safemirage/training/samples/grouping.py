"""Samples of like length side by side: a pure function of one shuffled pass, so that no worker count can change it."""

from collections.abc import Sequence

import numpy as np

_WINDOW_BATCHES = 50
"""Batches that are sorted together. More would save little padding and mix lengths less over a pass."""


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
