"""From questions and images to token ids: one way for training, transformers and vLLM, so that they agree.

The processor's own chat template renders; the whole text is tokenised at once, because tokens may join pieces.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from safemirage.config.identity import digest_of

IGNORED = -100
"""Label of a position that is not supervised."""
_UNREADABLE = (OSError, SyntaxError, Image.DecompressionBombError)
"""What PIL raises for files that are no image, or broken."""


class PromptError(ValueError):
    """A text or an image that cannot be put to the model; the message says what and why."""


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """One tokenised text, image tokens expanded."""

    ids: tuple[int, ...]
    labels: tuple[int, ...]
    """The id where supervised, -100 elsewhere."""


class Prompter:
    """Renders and tokenises for one processor."""

    def __init__(self, processor: Any) -> None:
        self._processor = processor
        self._tokenizer = processor.tokenizer
        self.image_token: str = processor.image_token
        self.image_token_id: int = processor.image_token_id
        self.eos_token_id: int = self._tokenizer.eos_token_id
        pad = self._tokenizer.pad_token_id
        self.pad_token_id: int = self.eos_token_id if pad is None else pad
        self._marks_images = "mm_token_type_ids" in processor.model_input_names
        self._num_image_tokens = lru_cache(maxsize=None)(self._measure)

    def prompt(
        self, question: str, *, has_image: bool, system: str | None = None, prefill: str = ""
    ) -> str:
        """The text that asks for an answer; `prefill` is put in as the answer's start.

        Raises:
            PromptError: a text holds the image token.
        """
        self._refuse_image_token(question, system or "", prefill)
        messages = [_message("system", system)] if system is not None else []
        messages.append(_message("user", question, has_image=has_image))
        opened = self._render(messages, open_ended=True)
        if not prefill:
            return opened
        closed = self._render([*messages, _message("assistant", prefill)], open_ended=False)
        answer = self._tail(opened, closed)
        return opened + answer[: answer.rindex(prefill.strip()) + len(prefill.strip())]

    def prompt_ids(self, text: str, *, image_size: tuple[int, int] | None = None) -> list[int]:
        """Token ids of a prompt; with an image's (width, height) its tokens are expanded, else left as one."""
        if image_size is not None:
            text = self._expand(text, self.num_image_tokens(image_size))
        ids: list[int] = self._tokenize(text)["input_ids"]
        return ids

    def conversation(
        self, turns: Sequence[tuple[str, str]], *, image_size: tuple[int, int] | None
    ) -> Tokens:
        """A whole conversation; the answers and the end token after each are supervised.

        Raises:
            PromptError: a text holds the image token, or the template is not built up turn by turn.
        """
        pieces = self._pieces(turns, has_image=image_size is not None)
        if image_size is not None:
            count = self.num_image_tokens(image_size)
            pieces = [(self._expand(text, count), answer) for text, answer in pieces]
        encoded = self._tokenize("".join(text for text, _ in pieces), return_offsets_mapping=True)
        spans = _supervised_spans(pieces)
        ids = tuple(encoded["input_ids"])
        labels = tuple(
            token if any(first <= start < end <= last for first, last in spans) else IGNORED
            for token, (start, end) in zip(ids, encoded["offset_mapping"], strict=True)
        )
        return Tokens(ids=ids, labels=labels)

    def pixels(self, image: Image.Image) -> dict[str, Tensor]:
        """What the model's forward takes of one image, on the CPU; the first axis counts images or patches."""
        encoded = self._processor.image_processor(images=[image], return_tensors="pt")
        return {name: value for name, value in encoded.items() if isinstance(value, Tensor)}

    def token_types(self, input_ids_BT: Tensor) -> dict[str, Tensor]:
        """What the forward takes beside the ids where it must be told the image tokens: 1 for those, 0 for text.

        The Qwen-VL models derive their three-axis positions from it, and without it give an image the positions of text.
        """
        if not self._marks_images:
            return {}
        return {"mm_token_type_ids": (input_ids_BT == self.image_token_id).int()}

    def position_inputs(
        self, input_ids_BT: Tensor, images: Sequence[dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        """What `generate` takes, beside ids and images encoded before, to give image tokens their positions.

        Args:
            images: what `pixels` made of the rows' images, in order.
        """
        types = self.token_types(input_ids_BT)
        if not types or not images:
            return {}
        return {**types, "image_grid_thw": torch.cat([image["image_grid_thw"] for image in images])}

    @cached_property
    def pixels_digest(self) -> str:
        """SHA-256 in hex over the image processor's settings: what `pixels` depends on beside the image."""
        return digest_of(json.loads(self._processor.image_processor.to_json_string()))

    def num_image_tokens(self, size: tuple[int, int]) -> int:
        """How many tokens of the prompt an image of (width, height) takes."""
        return self._num_image_tokens(size)

    def decode(self, ids: Sequence[int]) -> str:
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=True)
        return text.strip()

    def _measure(self, size: tuple[int, int]) -> int:
        blank = Image.new("RGB", size)
        encoded = self._processor(text=[self.image_token], images=[blank], return_tensors="pt")
        return int((encoded["input_ids"] == self.image_token_id).sum())

    def _expand(self, text: str, count: int) -> str:
        return text.replace(self.image_token, self.image_token * count)

    def _tokenize(self, text: str, **options: Any) -> Any:
        bos = self._tokenizer.bos_token
        # Some templates write the start token themselves; it must not stand there twice.
        add_special = not (bos and text.startswith(bos))
        return self._tokenizer(text, add_special_tokens=add_special, **options)

    def _render(self, messages: list[dict[str, Any]], *, open_ended: bool) -> str:
        text: str = self._processor.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=open_ended
        )
        return text

    def _pieces(
        self, turns: Sequence[tuple[str, str]], *, has_image: bool
    ) -> list[tuple[str, bool]]:
        """The rendered conversation, cut into (text, whether supervised)."""
        messages: list[dict[str, Any]] = []
        pieces: list[tuple[str, bool]] = []
        rendered = ""
        for index, (question, answer) in enumerate(turns):
            self._refuse_image_token(question, answer)
            messages.append(_message("user", question, has_image=has_image and index == 0))
            opened = self._render(messages, open_ended=True)
            messages.append(_message("assistant", answer))
            closed = self._render(messages, open_ended=False)
            spoken, rest = self._with_end(self._tail(opened, closed))
            pieces += [(self._tail(rendered, opened), False), (spoken, True), (rest, False)]
            rendered = closed
        return pieces

    def _with_end(self, answer: str) -> tuple[str, str]:
        """An answer up to its end token, and what the template writes after it.

        The public LLaVA template writes no end token at all: it is added, or the model would never learn to stop.
        """
        eos: str = self._tokenizer.eos_token
        head, found, rest = answer.rpartition(eos)
        return (head + eos, rest) if found else (answer.rstrip() + eos, "")

    def _tail(self, start: str, whole: str) -> str:
        if not whole.startswith(start):
            raise PromptError(
                "the chat template is not built up turn by turn, so answers cannot be told from prompts: "
                f"{whole!r} does not start with {start!r}"
            )
        return whole[len(start) :]

    def _refuse_image_token(self, *texts: str) -> None:
        for text in texts:
            if self.image_token in text:
                raise PromptError(
                    f"{text!r} holds {self.image_token!r}, which stands for an image; take it out"
                )


def stop_ids(model: Any, prompter: Prompter) -> frozenset[int]:
    """Tokens that end an answer: the tokenizer's and those of the model's generation config."""
    configured = model.generation_config.eos_token_id if model.generation_config else None
    listed = configured if isinstance(configured, list) else [configured]
    return frozenset({prompter.eos_token_id, *(one for one in listed if one is not None)})


def read_image(source: bytes | Path) -> Image.Image:
    """An image as RGB, transparency dropped, the camera's rotation mark not applied (as in LLaVA's training).

    Raises:
        PromptError: it cannot be read as an image.
    """
    try:
        with Image.open(BytesIO(source) if isinstance(source, bytes) else source) as image:
            return image.convert("RGB")
    except _UNREADABLE as error:
        name = f"{len(source)} bytes" if isinstance(source, bytes) else str(source)
        raise PromptError(f"image ({name}) cannot be read: {error}") from error


def image_size(path: Path) -> tuple[int, int]:
    """(width, height) of an image file that can be read to its end; a JPEG is decoded at an eighth of its size.

    Raises:
        PromptError: it cannot be read as an image.
    """
    try:
        with Image.open(path) as image:
            size = image.size
            image.draft("RGB", (1, 1))
            image.load()
            return size
    except _UNREADABLE as error:
        raise PromptError(f"image {path} cannot be read: {error}") from error


def cat_pixels(images: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Several images' tensors as one input of the forward."""
    return {name: _cat_padded([image[name] for image in images]) for name in images[0]}


def _cat_padded(tensors: Sequence[Tensor]) -> Tensor:
    """Joined along the first axis. Images cut into unequal numbers of tiles (LLaVA-NeXT) are filled up with zeros along
    the second; the model knows from `image_sizes` how many are real."""
    if len({tensor.shape[1:] for tensor in tensors}) == 1:
        return torch.cat(list(tensors))
    most = max(tensor.shape[1] for tensor in tensors)
    filled = [
        torch.cat([t, t.new_zeros(t.shape[0], most - t.shape[1], *t.shape[2:])], dim=1)
        for t in tensors
    ]
    return torch.cat(filled)


def _message(role: str, text: str, *, has_image: bool = False) -> dict[str, Any]:
    parts: list[dict[str, str]] = [{"type": "image"}] if has_image else []
    return {"role": role, "content": [*parts, {"type": "text", "text": text}]}


def _supervised_spans(pieces: Sequence[tuple[str, bool]]) -> list[tuple[int, int]]:
    """(start, end) in characters of the supervised pieces of the joined text."""
    spans = []
    start = 0
    for text, answer in pieces:
        if answer:
            spans.append((start, start + len(text)))
        start += len(text)
    return spans
