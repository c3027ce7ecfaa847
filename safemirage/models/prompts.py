"""Turns questions and images into token ids: one way for training, transformers and vLLM, so that they agree.

The processor's own chat template renders; the whole text is tokenised at once, because tokens may join pieces. Control
tokens in the texts that are put into the template stay text (`ControlTokens`).
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import torch
from PIL import Image
from tokenizers import Encoding
from torch import Tensor

from safemirage.config.loading.identity import digest_of
from safemirage.models.control_tokens import ControlTokens
from safemirage.text.characters import half_character

IGNORED = -100
"""Label of a position that is not supervised."""
_LONGEST = 1000
"""Sides of an image, long to short: most processors scale the short one up first, here to some hundred million pixels."""

_FOR_PROCESSOR = ("num_patches", "num_crops", "rows", "cols")
"""What an image processor tells its processor and no model takes."""


class PromptError(ValueError):
    """A text, or an image's shape, that cannot be put to the model; the message says what and why."""


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """One tokenised text, image tokens expanded."""

    ids: tuple[int, ...]
    labels: tuple[int, ...]
    """The token id where it is supervised, -100 elsewhere."""


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
        self._control_tokens = ControlTokens(self._tokenizer, self.image_token)
        self._marks_images = "mm_token_type_ids" in processor.model_input_names
        # A processor may prepare images otherwise than its image processor does by itself: InternVL cuts tiles. What it
        # passes on is told by the defaults of its arguments, as transformers 5 has them.
        defaults = getattr(processor.valid_processor_kwargs, "_defaults", {})
        self._image_options: dict[str, Any] = defaults.get("images_kwargs", {})
        self._image_text = lru_cache(maxsize=None)(self._written)

    def prompt(
        self,
        question: str,
        *,
        has_image: bool | int,
        system: str | None = None,
        prefill: str = "",
        earlier: Sequence[tuple[str, str, int]] = (),
    ) -> str:
        """The text that asks for an answer; `prefill` is put in as the answer's start.

        `has_image` may be a number of images; `earlier` are the turns before the question: role, text, number of images.

        A control token that stands in a text, and not in the template, is a mark that `prompt_ids` knows.

        Raises:
            PromptError: a text holds half of a character.
        """
        messages = [self._message("system", system)] if system is not None else []
        messages += [self._message(role, text, num_images=count) for role, text, count in earlier]
        messages.append(self._message("user", question, num_images=int(has_image)))
        opened = self._render(messages, open_ended=True)
        if not prefill:
            return opened
        closed = self._render([*messages, self._message("assistant", prefill)], open_ended=False)
        answer = self._tail(opened, closed)
        begun = self._text(prefill).strip()
        return opened + answer[: answer.rindex(begun) + len(begun)]

    def plain(self, text: str) -> str:
        """A text that is the prompt itself, without a template. Raises PromptError as `prompt` does."""
        return self._text(text)

    def prompt_ids(
        self,
        text: str,
        *,
        image_size: tuple[int, int] | None = None,
        image_sizes: Sequence[tuple[int, int]] = (),
    ) -> list[int]:
        """Token ids of a prompt; with each image's (width, height) its tokens are expanded, else left as one.

        Raises:
            PromptError: an image of this size cannot be prepared.
        """
        sizes = [image_size] if image_size is not None else list(image_sizes)
        if sizes:
            [text] = self._expanded([text], sizes)
        encoded, _ = self._encode([text])
        return encoded.ids

    def conversation(
        self,
        turns: Sequence[tuple[str, str]],
        *,
        images: Sequence[tuple[int, tuple[int, int]]] = (),
    ) -> Tokens:
        """A whole conversation; the answers and the end token after each are supervised.

        Args:
            images: in order, the turn that each stands in front of, and its (width, height).

        Raises:
            PromptError: a text holds half of a character, an image of this size cannot be prepared, or the template is
                not built up turn by turn or does not show every image.
        """
        pieces = self._pieces(turns, [turn for turn, _ in images])
        texts = self._expanded([text for text, _ in pieces], [size for _, size in images])
        encoded, texts = self._encode(texts)
        spans = _supervised_spans(list(zip(texts, (answer for _, answer in pieces), strict=True)))
        labels = tuple(
            token if any(first <= start < end <= last for first, last in spans) else IGNORED
            for token, (start, end) in zip(encoded.ids, encoded.offsets, strict=True)
        )
        return Tokens(ids=tuple(encoded.ids), labels=labels)

    def pixels(self, image: Image.Image) -> dict[str, Tensor]:
        """What the model's forward takes of one image, on the CPU; the first axis counts images or patches.

        Raises:
            PromptError: the image processor cannot prepare it.
        """
        with _preparing(image.size):
            encoded = self._prepared(image)
        return {
            name: value
            for name, value in encoded.items()
            if isinstance(value, Tensor) and name not in _FOR_PROCESSOR
        }

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
        """How many tokens of the prompt an image of (width, height) takes.

        Raises:
            PromptError: the image processor cannot prepare one of that size.
        """
        return self._image_text(size).count(self.image_token)

    def decode(self, ids: Sequence[int]) -> str:
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=True)
        return text.strip()

    def token_text(self, token: int) -> str:
        """One token as text, with the space that it may begin with; half of a character is U+FFFD."""
        # Decoders drop a leading space of the whole text; behind another token it is kept.
        before = self._tokenizer.decode([self.eos_token_id])
        text: str = self._tokenizer.decode([self.eos_token_id, token])
        return text.removeprefix(before)

    def _prepared(self, image: Image.Image) -> Any:
        return self._processor.image_processor(
            images=[image], return_tensors="pt", **self._image_options
        )

    def _written(self, size: tuple[int, int]) -> str:
        """What the processor writes in place of an image's mark: its tokens, in some families with others around them."""
        with _preparing(size):
            text: str = self._processor.replace_image_token(
                self._prepared(Image.new("RGB", size)), image_idx=0
            )
        return text

    def _expanded(self, texts: Sequence[str], sizes: Sequence[tuple[int, int]]) -> list[str]:
        """The rendered texts with each of their image tokens as often as its image takes it."""
        found = sum(text.count(self.image_token) for text in texts)
        if found != len(sizes):
            raise PromptError(
                f"the chat template writes {self.image_token!r} {found} times for {len(sizes)} image(s)"
            )
        written = iter([self._image_text(size) for size in sizes])
        parted = [text.split(self.image_token) for text in texts]
        return [
            first + "".join(next(written) + part for part in others) for first, *others in parted
        ]

    def _encode(self, rendered: Sequence[str]) -> tuple[Encoding, list[str]]:
        """The tokens of the joined texts, and the texts that their offsets count in."""
        bos = self._tokenizer.bos_token
        # Some templates write the start token themselves; it must not stand there twice.
        add_special = not (bos and "".join(rendered).startswith(bos))
        texts = [self._control_tokens.secret(text) for text in rendered]
        return self._control_tokens.encode("".join(texts), add_special_tokens=add_special), texts

    def _message(self, role: str, text: str, *, num_images: int = 0) -> dict[str, Any]:
        parts: list[dict[str, str]] = [{"type": "image"}] * num_images
        return {"role": role, "content": [*parts, {"type": "text", "text": self._text(text)}]}

    def _text(self, text: str) -> str:
        """A text as the template is given it."""
        if (place := half_character(text)) is not None:
            raise PromptError(f"the text has half of a character at place {place}: {text!r}")
        return self._control_tokens.mark(text)

    def _render(self, messages: list[dict[str, Any]], *, open_ended: bool) -> str:
        text: str = self._processor.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=open_ended
        )
        return text

    def _pieces(
        self, turns: Sequence[tuple[str, str]], image_turns: Sequence[int]
    ) -> list[tuple[str, bool]]:
        """The rendered conversation, cut into (text, whether supervised)."""
        messages: list[dict[str, Any]] = []
        pieces: list[tuple[str, bool]] = []
        rendered = ""
        for index, (question, answer) in enumerate(turns):
            num_images = image_turns.count(index)
            messages.append(self._message("user", question, num_images=num_images))
            opened = self._render(messages, open_ended=True)
            messages.append(self._message("assistant", answer))
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


def stop_ids(model: Any, prompter: Prompter) -> frozenset[int]:
    """Tokens that end an answer: the tokenizer's and those of the model's generation config."""
    configured = model.generation_config.eos_token_id if model.generation_config else None
    listed = configured if isinstance(configured, list) else [configured]
    return frozenset({prompter.eos_token_id, *(one for one in listed if one is not None)})


def cat_pixels(images: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Several images' tensors as one input of the forward."""
    return {name: _cat_padded([image[name] for image in images]) for name in images[0]}


def _cat_padded(tensors: Sequence[Tensor]) -> Tensor:
    """The tensors joined along the first axis. Images cut into unequal numbers of tiles (LLaVA-NeXT) are filled up
    with zeros along the second; the model knows from `image_sizes` how many are real."""
    if len({tensor.shape[1:] for tensor in tensors}) == 1:
        return torch.cat(list(tensors))
    most = max(tensor.shape[1] for tensor in tensors)
    filled = [
        torch.cat([t, t.new_zeros(t.shape[0], most - t.shape[1], *t.shape[2:])], dim=1)
        for t in tensors
    ]
    return torch.cat(filled)


@contextmanager
def _preparing(size: tuple[int, int]) -> Iterator[None]:
    """Whatever a library's preprocessing raises over an image is about that image (Qwen-VL takes none over 200:1)."""
    shape = f"an image of {size[0]} x {size[1]} cannot be prepared"
    if max(size) > _LONGEST * min(size):
        raise PromptError(f"{shape}: it is longer than {_LONGEST} times its short side")
    try:
        yield
    except Exception as error:
        raise PromptError(f"{shape}: {error or type(error).__name__}") from error


def _supervised_spans(pieces: Sequence[tuple[str, bool]]) -> list[tuple[int, int]]:
    """(start, end) in characters of the supervised pieces of the joined text."""
    spans = []
    start = 0
    for text, answer in pieces:
        if answer:
            spans.append((start, start + len(text)))
        start += len(text)
    return spans
