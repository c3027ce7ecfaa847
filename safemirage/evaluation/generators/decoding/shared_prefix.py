"""Decodes many answers at once: what prompts share is computed once, and a row that ends makes room for the next.

Prompts that show the same image in the same place form a group. Their longest common token prefix is found in the whole
tokenised prompts, because a tokenizer may join across any seam. It goes through the model once, alone; its keys and
values are copied to a row for each prompt, which then continues by itself at its own positions.
"""

from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from safemirage.config.generators import DecodingConfig
from safemirage.evaluation.generators.decoding.choice import next_tokens, seeded
from safemirage.evaluation.generators.decoding.prompts import (
    ImageFeatures,
    TokenizedPrompt,
    common_prefix,
)
from safemirage.evaluation.generators.decoding.slots import CacheShape, SlotCache
from safemirage.models.families import Family

_STEP = 64
"""Columns that the cache grows by."""
_REFILL = 8
"""New prompts are taken in when a share of 1 / 8 of the rows is free: their first forward costs as much as a step."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Waiting:
    """A prompt that waits for a row."""

    prompt: TokenizedPrompt
    prefix: int
    """Tokens that it shares with its group."""
    group: Hashable
    """What those tokens and their images are known by: equal for prompts that share them."""
    images: Callable[[], Sequence[Tensor]]
    """What the language model sees of the images in the prefix, in order."""
    decoding: DecodingConfig
    weigh: Callable[[Tensor], Tensor] | None = None
    """Changes the logits (V) before a token is chosen."""
    hear: Callable[[int, Tensor], bool] | None = None
    """Is told each token and the logits (V) that it was chosen by; True ends the answer. None: it ends by an end token, or
    at its limit."""


@dataclass(kw_only=True)
class Row:
    """An answer in the making."""

    asked: Waiting
    generator: torch.Generator
    new_ids: list[int] = field(default_factory=list)

    @property
    def length(self) -> int:
        """Tokens whose keys and values are there before the next forward: all but the newest."""
        return len(self.asked.prompt.ids) + len(self.new_ids) - 1


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
        size = min(self._rows, len(prompts))
        columns = max(len(prompt.ids) + prompt.limit for prompt in prompts)
        rows = Rows(self, self.room(size + 1, columns), stop_ids)
        waiting = deque(_waiting(prompts, features, decoding, self._image_token_id))
        answers: dict[int, list[int]] = {}
        while waiting or rows.rows:
            if rows.takes(len(waiting)):
                ended = rows.admit([waiting.popleft() for _ in range(min(rows.free, len(waiting)))])
            else:
                ended = rows.step()
            answers |= {row.asked.prompt.place: row.new_ids for row in ended}
        return answers

    @property
    def rows(self) -> int:
        """Answers in the making at a time."""
        return self._rows

    def room(self, rows: int, columns: int) -> SlotCache:
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


class Rows:
    """The rows that are being decoded: always the first ones of the cache. Its last row holds a group's prefix."""

    def __init__(
        self, decoder: SharedPrefixDecoder, cache: SlotCache, stop_ids: frozenset[int]
    ) -> None:
        self._decoder = decoder
        self._cache = cache
        self._stop_ids = stop_ids
        self._group: Hashable = None
        """The group whose prefix is in the last row."""
        self.rows: list[Row] = []

    @property
    def free(self) -> int:
        return self._cache.rows - 1 - len(self.rows)

    def takes(self, waiting: int) -> bool:
        """Whether new rows are taken in now: enough are free, or none is left to decode."""
        return waiting > 0 and (not self.rows or self.free * _REFILL >= self._cache.rows - 1)

    def widen(self, columns: int) -> None:
        """Makes room for a row of that many columns beside those that are being decoded."""
        if columns <= self._cache.columns:
            return
        # Doubled, so that rows which get longer bit by bit do not each copy all of it.
        self._cache = self._cache.widened(
            -(-max(columns, 2 * self._cache.columns) // _STEP) * _STEP
        )

    def admit(self, items: Sequence[Waiting]) -> list[Row]:
        """Takes in new rows, at most as many as are free, and gives them their first token. Those that end by it."""
        first = len(self.rows)
        texts, starts = [], []
        for item in items:
            # Where groups wait one after another, a prefix is computed once and never again.
            if item.prefix and item.group != self._group:
                self._prefill(item)
            if item.prefix:
                self._cache.copy_row(self._cache.rows - 1, len(self.rows), item.prefix)
            self.rows.append(Row(asked=item, generator=seeded(item.prompt.seed)))
            texts.append(item.prompt.ids[item.prefix :])
            starts.append(item.prefix)
        self._decoder.num_prefill_tokens += sum(len(text) for text in texts)
        return self._advance(first, texts, starts)

    def step(self) -> list[Row]:
        """One token for every row. Those that end by it."""
        self._decoder.num_steps += 1
        texts = [[row.new_ids[-1]] for row in self.rows]
        return self._advance(0, texts, [row.length for row in self.rows])

    def drop(self, asked: Waiting) -> None:
        """Ends a row without an answer, where it is being decoded."""
        for index, row in enumerate(self.rows):
            if row.asked is asked:
                self._close(index)
                return

    def _prefill(self, item: Waiting) -> None:
        self._group = None  # until it is whole: computing may fail
        seen = item.images()
        image = torch.cat(list(seen)) if seen else None
        spare = self._cache.rows - 1
        self._decoder.prefill(item.prompt.ids[: item.prefix], image, self._cache, spare)
        self._group = item.group

    def _advance(
        self, first: int, texts: Sequence[Sequence[int]], starts: Sequence[int]
    ) -> list[Row]:
        """Gives each row from `first` on its next token, and lets go those that end by it."""
        logits_BV = self._decoder.extend(texts, starts, self._cache, first)
        rows = self.rows[first:]
        weighed_BV = logits_BV
        if any(row.asked.weigh is not None for row in rows):
            weighed_BV = torch.stack(
                [
                    row.asked.weigh(logits_V) if row.asked.weigh is not None else logits_V
                    for row, logits_V in zip(rows, logits_BV, strict=True)
                ]
            )
        tokens = next_tokens(
            weighed_BV, [row.generator for row in rows], [row.asked.decoding for row in rows]
        )
        ended = []
        # From the end, because closing a row moves the last one into its place.
        for index in reversed(range(len(rows))):
            row, token = rows[index], tokens[index]
            row.new_ids.append(token)
            hear = row.asked.hear
            if hear(token, logits_BV[index]) if hear is not None else self._is_last(row, token):
                ended.append(row)
                self._close(first + index)
        return ended

    def _is_last(self, row: Row, token: int) -> bool:
        return token in self._stop_ids or len(row.new_ids) >= row.asked.prompt.limit

    def _close(self, index: int) -> None:
        """Ends a row; the last row takes its place."""
        last = self.rows.pop()
        if index < len(self.rows):
            self._cache.copy_row(len(self.rows), index, last.length)
            self.rows[index] = last


def _waiting(
    prompts: Sequence[TokenizedPrompt],
    features: ImageFeatures,
    decoding: DecodingConfig,
    image_token_id: int,
) -> list[Waiting]:
    """The prompts group by group, images in the order of their digests, each group's shorter prompts first."""

    def head(prompt: TokenizedPrompt) -> tuple[str, tuple[int, ...]]:
        """What a group has in common: the image, and all up to its last token."""
        if prompt.image is None:
            return "", ()
        return prompt.image, prompt.ids[: image_end(prompt.ids, image_token_id)]

    found = []
    ordered = sorted(prompts, key=lambda prompt: (head(prompt), len(prompt.ids), prompt.place))
    for number, (_, members) in enumerate(groupby(ordered, key=head)):
        group = list(members)
        shown = [prompt.image for prompt in group[:1] if prompt.image is not None]
        shared = common_prefix([prompt.ids for prompt in group])
        found += [
            Waiting(
                prompt=prompt,
                prefix=shared,
                group=number,
                images=partial(features.of, shown),
                decoding=decoding,
                weigh=None if prompt.choice is None else prompt.choice.weigh,
                hear=None if prompt.choice is None else prompt.choice.hear,
            )
            for prompt in group
        ]
    return found


def image_end(ids: Sequence[int], image_token_id: int) -> int:
    """The place after the last image token; 0 where there is none."""
    return max((place + 1 for place, token in enumerate(ids) if token == image_token_id), default=0)
