"""Decodes many answers at once: what prompts share is computed once, and a row that ends makes room for the next.

Prompts that show the same image in the same place form a group. Their longest common token prefix is found in the whole
tokenised prompts, because a tokenizer may join across any seam. It goes through the model once, alone; its keys and
values are copied to a row for each prompt, which then continues by itself at its own positions.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from safemirage.config.generators import DecodingConfig
from safemirage.evaluation.generators.decoding.choice import next_tokens, seeded
from safemirage.evaluation.generators.decoding.prompts import ImageFeatures, TokenizedPrompt
from safemirage.evaluation.generators.decoding.slots import CacheShape, SlotCache
from safemirage.models.families import Family

_STEP = 64
"""Columns that the cache grows by."""
_REFILL = 8
"""New prompts are taken in when a share of 1 / 8 of the rows is free: their first forward costs as much as a step."""


@dataclass(frozen=True, kw_only=True)
class _Waiting:
    prompt: TokenizedPrompt
    prefix: int
    """Tokens that it shares with its group."""
    group: int


@dataclass(kw_only=True)
class _Row:
    """An answer in the making."""

    prompt: TokenizedPrompt
    generator: torch.Generator
    new_ids: list[int] = field(default_factory=list)

    @property
    def length(self) -> int:
        """Tokens whose keys and values are there before the next forward: all but the newest."""
        return len(self.prompt.ids) + len(self.new_ids) - 1


class SharedPrefixDecoder:
    """For families whose language model takes embeddings and one position a token."""

    name = "shared-prefix-1"
    """The decoder's name in cache keys; it changes when answers may."""

    def __init__(self, model: Any, family: Family, *, rows: int, image_token_id: int) -> None:
        self._language = model.get_submodule(family.language)
        self._embed = model.get_input_embeddings()
        self._head = model.get_output_embeddings()
        self._rows = rows
        self._image_token_id = image_token_id
        self._cache: SlotCache | None = None
        self.num_prefill_tokens = 0
        self.num_steps = 0

    def decode(
        self,
        prompts: Sequence[TokenizedPrompt],
        features: ImageFeatures,
        decoding: DecodingConfig,
        stop_ids: frozenset[int],
    ) -> dict[int, list[int]]:
        """The new tokens of each prompt, by its place, the end token included."""
        if not prompts:
            return {}
        rows = min(self._rows, len(prompts))
        columns = max(len(prompt.ids) + prompt.limit for prompt in prompts)
        # One row more than answers are decoded in: it keeps the prefix that is being copied.
        batch = _Batch(self, self._room(rows + 1, columns), features, decoding, stop_ids)
        batch.wait(_waiting(prompts, self._image_token_id))
        while batch.step():
            pass
        return batch.answers

    def _room(self, rows: int, columns: int) -> SlotCache:
        """A cache at least that big; the last one where it will do."""
        kept = self._cache
        if kept is None or kept.rows < rows or kept.columns < columns:
            self._cache = None  # before the new one is allocated
            # Rounded up to whole steps, so that prompts a little longer do not make a new cache each time.
            columns = -(-max(columns, kept.columns if kept else 0) // _STEP) * _STEP
            self._cache = SlotCache(
                self._shape(), rows=max(rows, kept.rows if kept else 0), columns=columns
            )
        assert self._cache is not None
        return self._cache

    def _shape(self) -> CacheShape:
        config = self._language.config
        return CacheShape(
            layers=config.num_hidden_layers,
            heads=config.num_key_value_heads,
            head_size=getattr(config, "head_dim", None)
            or config.hidden_size // config.num_attention_heads,
            dtype=self._language.dtype,
            device=self._language.device,
        )

    def prefill(self, ids: Sequence[int], image: Tensor | None, cache: SlotCache, row: int) -> None:
        """Puts a prefix of token ids, `image` (tokens, H) in its place, into a row of the cache."""
        ids_T = torch.tensor(ids, device=self._language.device)
        embeds_TH = self._embed(ids_T)
        if image is not None:
            # The encoder's output takes the place of the image tokens, as in the model's own forward.
            embeds_TH[ids_T == self._image_token_id] = image.to(embeds_TH.dtype)
        cache.prefix_at(row)
        self._language(
            inputs_embeds=embeds_TH[None],
            position_ids=torch.arange(len(ids), device=ids_T.device)[None],
            past_key_values=cache,
            use_cache=True,
        )
        self.num_prefill_tokens += len(ids)

    def extend(
        self, texts: Sequence[Sequence[int]], starts: Sequence[int], cache: SlotCache, first: int
    ) -> Tensor:
        """Logits (B, V) after each text; text b goes into row `first + b`, at columns and positions from starts[b] on.

        Shorter texts are padded at their end. No token looks at the padding, and later ones are written over it.
        """
        device = self._language.device
        lengths = [len(text) for text in texts]
        longest = max(lengths)
        ids_BT = torch.tensor([[*text, *([0] * (longest - len(text)))] for text in texts])
        starts_B = torch.tensor(starts)
        columns_BT = starts_B[:, None] + torch.arange(longest)
        # Padding behind a long text would reach beyond the cache; nobody looks at what is written there.
        columns_BT = columns_BT.clamp(max=cache.columns - 1)
        # A width of whole eights is what CUDA's kernels take a mask of.
        width = min(cache.columns, -(-(int(columns_BT.max()) + 1) // 8) * 8)
        # A token sees the columns up to its own. What is beyond is old, or padding.
        hidden = torch.arange(width) > columns_BT[:, None, :, None]
        mask = torch.zeros(hidden.shape, dtype=self._language.dtype)
        mask.masked_fill_(hidden, torch.finfo(mask.dtype).min)
        columns_BT = columns_BT.to(device)
        cache.write_at(first, columns_BT, width=width)
        out_BTH = self._language(
            inputs_embeds=self._embed(ids_BT.to(device)),
            attention_mask=mask.to(device),
            position_ids=columns_BT,
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
        # The head is run on the last token of each text alone: logits of all would be gigabytes.
        last_B = torch.tensor(lengths, device=device) - 1
        logits_BV: Tensor = self._head(out_BTH[torch.arange(len(texts), device=device), last_B])
        return logits_BV


class _Batch:
    """The rows that are being decoded: always the first ones of the cache. Its last row holds a group's prefix."""

    def __init__(
        self,
        decoder: SharedPrefixDecoder,
        cache: SlotCache,
        features: ImageFeatures,
        decoding: DecodingConfig,
        stop_ids: frozenset[int],
    ) -> None:
        self._decoder = decoder
        self._cache = cache
        self._features = features
        self._decoding = decoding
        self._stop_ids = stop_ids
        self._rows: list[_Row] = []
        self._waiting: deque[_Waiting] = deque()
        self._group: int | None = None
        """The group whose prefix is in the last row."""
        self.answers: dict[int, list[int]] = {}

    def wait(self, prompts: Sequence[_Waiting]) -> None:
        self._waiting.extend(prompts)

    def step(self) -> bool:
        """One token for every row, or the first tokens of new rows. False when all is answered."""
        size = self._cache.rows - 1
        free = size - len(self._rows)
        # New rows are taken in when enough are free, or none is left to decode.
        if self._waiting and (not self._rows or free * _REFILL >= size):
            self._admit(free)
        elif self._rows:
            texts = [[row.new_ids[-1]] for row in self._rows]
            self._advance(0, texts, [row.length for row in self._rows])
            self._decoder.num_steps += 1
        return bool(self._rows or self._waiting)

    def _admit(self, free: int) -> None:
        first = len(self._rows)
        texts, starts = [], []
        for _ in range(min(free, len(self._waiting))):
            item = self._waiting.popleft()
            # Groups wait one after another, so a prefix is computed once and never again.
            if item.group != self._group:
                self._prefill(item)
            if item.prefix:
                self._cache.copy_row(self._cache.rows - 1, len(self._rows), item.prefix)
            self._rows.append(_Row(prompt=item.prompt, generator=seeded(item.prompt.seed)))
            texts.append(item.prompt.ids[item.prefix :])
            starts.append(item.prefix)
        self._decoder.num_prefill_tokens += sum(len(text) for text in texts)
        self._advance(first, texts, starts)

    def _prefill(self, item: _Waiting) -> None:
        self._group = item.group
        if not item.prefix:
            return
        prompt = item.prompt
        (image,) = self._features.of([prompt.image]) if prompt.image is not None else (None,)
        spare = self._cache.rows - 1
        self._decoder.prefill(prompt.ids[: item.prefix], image, self._cache, spare)

    def _advance(self, first: int, texts: Sequence[Sequence[int]], starts: Sequence[int]) -> None:
        """Gives each row from `first` on its next token, and lets go those that end by it."""
        logits_BV = self._decoder.extend(texts, starts, self._cache, first)
        rows = self._rows[first:]
        tokens = next_tokens(logits_BV, [row.generator for row in rows], self._decoding)
        for row, token in zip(rows, tokens, strict=True):
            row.new_ids.append(token)
        # From the end, because closing a row moves the last one into its place.
        for index in reversed(range(first, len(self._rows))):
            row = self._rows[index]
            if row.new_ids[-1] in self._stop_ids or len(row.new_ids) >= row.prompt.limit:
                self.answers[row.prompt.place] = row.new_ids
                self._close(index)

    def _close(self, index: int) -> None:
        """Ends a row; the last row takes its place."""
        last = self._rows.pop()
        if index < len(self._rows):
            self._cache.copy_row(len(self._rows), index, last.length)
            self._rows[index] = last


def _waiting(prompts: Sequence[TokenizedPrompt], image_token_id: int) -> list[_Waiting]:
    """The prompts group by group, images in the order of their digests, each group's shorter prompts first."""

    def head(prompt: TokenizedPrompt) -> tuple[str, tuple[int, ...]]:
        """What a group has in common: the image, and all up to its last token."""
        if prompt.image is None:
            return "", ()
        end = len(prompt.ids) - prompt.ids[::-1].index(image_token_id)
        return prompt.image, prompt.ids[:end]

    found = []
    ordered = sorted(prompts, key=lambda prompt: (head(prompt), len(prompt.ids), prompt.place))
    for number, (_, members) in enumerate(groupby(ordered, key=head)):
        group = list(members)
        shared = common_prefix([prompt.ids for prompt in group])
        found += [_Waiting(prompt=prompt, prefix=shared, group=number) for prompt in group]
    return found


def common_prefix(texts: Sequence[tuple[int, ...]]) -> int:
    """Tokens that all texts begin with, the last token of each left out: a forward needs at least one token."""
    first, last = min(texts), max(texts)  # whatever these two share, those between them share too
    limit = min(len(text) for text in texts) - 1
    same = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), limit)
    return min(same, limit)
