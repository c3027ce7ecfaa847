"""Decodes by transformers' `generate` on left-padded batches: for families whose positions only it knows how to count."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList

from safemirage.config.generators import DecodingConfig
from safemirage.evaluation.generators.decoding.choice import sampling_processors
from safemirage.evaluation.generators.decoding.prompts import ImageFeatures, TokenizedPrompt


class PaddedDecoder:
    """Each batch ends when its longest answer does, and every prompt is computed whole."""

    name = "padded-1"
    """The decoder's name in cache keys; it changes when answers may."""

    def __init__(self, model: Any, *, rows: int, pad_token_id: int) -> None:
        self._model = model
        self._rows = rows
        self._pad_token_id = pad_token_id
        self.num_prefill_tokens = 0
        self.num_steps = 0

    @property
    def rows(self) -> int:
        """Answers in the making at a time."""
        return self._rows

    def decode(
        self,
        prompts: Sequence[TokenizedPrompt],
        features: ImageFeatures,
        decoding: DecodingConfig,
        stop_ids: frozenset[int],
    ) -> dict[int, list[int]]:
        """The new tokens of each prompt, by its place; what follows an end token is padding."""
        # By image, so that its features can go as soon as its questions are answered; then by length.
        ordered = sorted(prompts, key=lambda prompt: (prompt.image or "", len(prompt.ids)))
        answers: dict[int, list[int]] = {}
        for batch in _batches(ordered, self._rows):
            hearing = _hearing(batch)
            for prompt, ids in zip(
                batch, self._batch(batch, features, decoding, stop_ids, hearing), strict=True
            ):
                answers[prompt.place] = ids[: prompt.limit]
        return answers

    def decode_heard(
        self,
        prompts: Sequence[TokenizedPrompt],
        features: ImageFeatures,
        decoding: DecodingConfig,
        stop_ids: frozenset[int],
        hearing: "Hearing",
    ) -> None:
        """One batch whose tokens are heard as they are chosen, and whose answers end when `hearing` says so."""
        self._batch(prompts, features, decoding, stop_ids, hearing)

    def _batch(
        self,
        batch: Sequence[TokenizedPrompt],
        features: ImageFeatures,
        decoding: DecodingConfig,
        stop_ids: frozenset[int],
        hearing: "Hearing | None" = None,
    ) -> list[list[int]]:
        length = max(len(prompt.ids) for prompt in batch)
        input_ids_BT = torch.full((len(batch), length), self._pad_token_id)
        attention_mask_BT = torch.zeros_like(input_ids_BT)
        for row, prompt in enumerate(batch):
            input_ids_BT[row, length - len(prompt.ids) :] = torch.tensor(prompt.ids)
            attention_mask_BT[row, length - len(prompt.ids) :] = 1
        shown = [name for prompt in batch if prompt.image for name in prompt.image.split("+")]
        encoded = {"image": features.encoder_output(shown)} if shown else {}
        sampling = sampling_processors([prompt.seed for prompt in batch], decoding)
        first = [hearing] if hearing is not None else []
        output_BT = self._model.generate(
            input_ids=input_ids_BT.to(self._model.device),
            attention_mask=attention_mask_BT.to(self._model.device),
            mm_encoder_outputs=encoded,
            **features.position_inputs(input_ids_BT, shown),
            generation_config=GenerationConfig(
                max_new_tokens=max(prompt.limit for prompt in batch),
                do_sample=False,
                # What is left open here is filled in from the model's own file; some set this there.
                repetition_penalty=1.0,
                eos_token_id=sorted(stop_ids) or None,
                pad_token_id=self._pad_token_id,
            ),
            logits_processor=LogitsProcessorList([*first, *sampling]),
            stopping_criteria=StoppingCriteriaList(first),
        )
        self.num_prefill_tokens += sum(len(prompt.ids) for prompt in batch)
        self.num_steps += output_BT.shape[1] - length - 1
        new_ids: list[list[int]] = output_BT[:, length:].tolist()
        return new_ids


class Hearing:
    """Listens to `generate`: a logits processor, which sees what tokens are chosen by and may change it, and a stopping
    criterion, which sees the tokens and ends answers."""

    def __init__(
        self,
        weigh: Callable[[int, Tensor], Tensor],
        hear: Callable[[int, int, Tensor], bool],
        rows: int,
    ) -> None:
        self._weigh = weigh
        self._hear = hear
        self._ended = [False] * rows
        self._logits_BV: Tensor | None = None

    def __call__(self, input_ids: Tensor, scores: Tensor | None) -> Tensor:
        if scores is not None and self._logits_BV is None:
            self._logits_BV = scores
            return torch.stack([self._weigh(row, one) for row, one in enumerate(scores)])
        assert self._logits_BV is not None, "tokens are chosen by logits"
        for row, token in enumerate(input_ids[:, -1].tolist()):
            if not self._ended[row]:
                self._ended[row] = self._hear(row, token, self._logits_BV[row])
        self._logits_BV = None
        return torch.tensor(self._ended, device=input_ids.device)


def _batches(prompts: Sequence[TokenizedPrompt], size: int) -> Iterator[Sequence[TokenizedPrompt]]:
    for start in range(0, len(prompts), size):
        yield prompts[start : start + size]


def _hearing(batch: Sequence[TokenizedPrompt]) -> Hearing | None:
    """What keeps those of a batch to their choice that have one; None where none has."""
    choices = [prompt.choice for prompt in batch]
    if not any(choices):
        return None

    def weigh(row: int, logits_V: Tensor) -> Tensor:
        choice = choices[row]
        return logits_V if choice is None else choice.weigh(logits_V)

    def hear(row: int, token: int, logits_V: Tensor) -> bool:
        choice = choices[row]
        return choice is not None and choice.hear(token, logits_V)  # others end by their end token

    return Hearing(weigh, hear, len(batch))
