"""Keys and values of the language model for a fixed number of rows, allocated once and written in place.

transformers' DynamicCache copies all of it at every step, which for small models is most of a step.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer


@dataclass(frozen=True, kw_only=True)
class CacheShape:
    layers: int
    heads: int
    """Number of heads of keys and values."""
    head_size: int
    dtype: torch.dtype
    device: torch.device


@dataclass(frozen=True, kw_only=True)
class _Window:
    """The part of the cache that a forward writes, and the part that it may look at."""

    first: int
    """Row of the forward's first sequence; the others follow it."""
    columns_BT: Tensor | None
    """Column of each token; None: a prefix, written from column 0 on and looking at nothing else."""
    width: int
    """Number of columns that the forward looks at."""


class SlotCache(Cache):
    """`rows` sequences of up to `columns` tokens. Say where a forward writes (`prefix_at`, `write_at`), then call it.

    A row's columns are its positions, without gaps: no row waits for, or pads, another.
    """

    def __init__(self, shape: CacheShape, *, rows: int, columns: int) -> None:
        # Zeros, because a masked column still enters a product: what lay in memory might be no number.
        self._store = torch.zeros(
            (shape.layers, 2, rows, shape.heads, columns, shape.head_size),
            dtype=shape.dtype,
            device=shape.device,
        )
        self.shape = shape
        self.rows = rows
        self.columns = columns
        self.window = _Window(first=0, columns_BT=None, width=0)
        super().__init__(layers=[_SlotLayer(self, pair) for pair in self._store])

    def prefix_at(self, row: int) -> None:
        """The next forward is one sequence from its beginning, kept in `row`."""
        self.window = _Window(first=row, columns_BT=None, width=0)

    def write_at(self, first: int, columns_BT: Tensor, *, width: int) -> None:
        """The next forward's tokens go to `columns_BT` of the rows from `first` on; it sees `width` columns."""
        self.window = _Window(first=first, columns_BT=columns_BT, width=width)

    def widened(self, columns: int) -> "SlotCache":
        """A cache of the same rows with more columns, and what this one holds."""
        wider = SlotCache(self.shape, rows=self.rows, columns=columns)
        wider._store[..., : self.columns, :] = self._store
        return wider

    def copy_row(self, source: int, target: int, length: int) -> None:
        """Copies the first `length` columns of a row into another."""
        # All layers in one copy.
        self._store[:, :, target, :, :length] = self._store[:, :, source, :, :length]


class _SlotLayer(DynamicLayer):
    def __init__(self, cache: SlotCache, pair: Tensor) -> None:
        super().__init__()
        self._cache = cache
        self.keys, self.values = pair[0], pair[1]
        self.dtype, self.device = pair.dtype, pair.device
        self.is_initialized = True

    def get_seq_length(self) -> int:
        return 0  # asked for by a forward without a mask only, which is a prefix

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        # Masks are made by the decoder, which knows what each row may see.
        return query_length, 0

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Writes (B, heads, T, size) and returns all that the forward may look at, (B, heads, width, size)."""
        window = self._cache.window
        if window.columns_BT is None:
            length = key_states.shape[2]
            self.keys[window.first, :, :length] = key_states[0]
            self.values[window.first, :, :length] = value_states[0]
            return key_states, value_states
        rows = slice(window.first, window.first + key_states.shape[0])
        place = torch.arange(key_states.shape[0], device=key_states.device)[:, None]
        seen = []
        for kept, new in ((self.keys, key_states), (self.values, value_states)):
            # Each token to its own column: rows stand at different lengths.
            kept[rows].transpose(1, 2)[place, window.columns_BT] = new.transpose(1, 2)
            seen.append(kept[rows, :, : window.width])
        return seen[0], seen[1]
