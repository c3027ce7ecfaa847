"""Tokenised requests, and images encoded once while their questions stand side by side."""

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from PIL.Image import Image
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.qwen3_vl.modeling_qwen3_vl import BaseModelOutputWithDeepstackFeatures

from safemirage.evaluation.generators.decoding.choice import RowChoice
from safemirage.evaluation.types import ChatRequest, Choice, Generation, Request
from safemirage.models.prompts import Prompter, PromptError, cat_pixels


def rendered(prompter: Prompter, request: Request) -> str:
    """The text that puts a request to a model. Raises PromptError."""
    if not isinstance(request, ChatRequest):
        return prompter.prompt(
            request.question,
            has_image=request.image is not None,
            system=request.system,
            prefill=request.prefill,
        )
    if request.raw:
        return prompter.plain(request.question)
    own = 0 if request.image is None else 1 + len(request.more_images)
    return prompter.prompt(
        request.question,
        has_image=own,
        system=request.system,
        prefill=request.prefill,
        earlier=[(turn.role, turn.text, len(turn.images)) for turn in request.earlier],
    )


def images_key(request: Request) -> str | None:
    """What stands for a request's images: the digest of the one, or those of all; None without any."""
    return "+".join(image.digest for image in request.images) or None


@dataclass(frozen=True, kw_only=True)
class TokenizedPrompt:
    """A tokenised request and its place among the requests."""

    place: int
    ids: tuple[int, ...]
    """Token ids, with image tokens expanded."""
    image: str | None
    """Digest of the prompt's image."""
    seed: int
    """Seed for sampling; it follows from prompt and image."""
    limit: int
    """Tokens that the answer may have."""
    choice: RowChoice | None = None
    """The texts of which the answer is one; decoding decides it."""


@dataclass(frozen=True, kw_only=True)
class _Encoded:
    features: Tensor
    """The image's tokens in the language model's space, (tokens, H)."""
    pixels: dict[str, Tensor]
    deep: tuple[Tensor, ...] = ()
    """Features of their own for the first decoder layers (Qwen3-VL), each (tokens, H)."""


class ImageFeatures:
    """What the language model sees of each image."""

    def __init__(self, model: Any, prompter: Prompter, images: Mapping[str, Image]) -> None:
        self._model = model
        self._prompter = prompter
        self._images = images
        self._kept: dict[str, _Encoded] = {}
        self.num_encoded = 0

    def of(self, wanted: Sequence[str]) -> list[Tensor]:
        """One tensor (tokens, H) for each digest. Those of other images are dropped: ask for an image's questions in
        a row."""
        self._kept = {digest: self._kept[digest] for digest in wanted if digest in self._kept}
        missing = [digest for digest in dict.fromkeys(wanted) if digest not in self._kept]
        if missing:
            self._encode(missing)
        return [self._kept[digest].features for digest in wanted]

    def encoder_output(self, wanted: Sequence[str]) -> Any:
        """What the model's image encoder would give for these images together: for `generate`, in place of pixels."""
        features = self.of(wanted)
        levels = list(zip(*(self._kept[digest].deep for digest in wanted), strict=True))
        if not levels:
            return BaseModelOutputWithPooling(pooler_output=features)
        return BaseModelOutputWithDeepstackFeatures(
            pooler_output=features, deepstack_features=levels
        )

    def position_inputs(self, input_ids_BT: Tensor, shown: Sequence[str]) -> dict[str, Tensor]:
        """What `generate` takes to give image tokens their positions; `shown` are the images that `of` gave last, in
        the rows' order."""
        pixels = [self._kept[digest].pixels for digest in shown]
        found = self._prompter.position_inputs(input_ids_BT, pixels)
        return {name: self._on_device(tensor) for name, tensor in found.items()}

    def _encode(self, digests: Sequence[str]) -> None:
        pixels = [self._prompter.pixels(self._images[name]) for name in digests]
        encoded = self._features(cat_pixels(pixels))
        if isinstance(encoded.pooler_output, Tensor) and len(digests) > 1:
            # Some encoders do not say which features are which image's (InternVL): one image at a time, then.
            for digest in digests:
                self._encode([digest])
            return
        levels = getattr(encoded, "deepstack_features", None) or []
        deep = list(zip(*levels, strict=True)) if levels else [()] * len(digests)
        self._kept |= {
            digest: _Encoded(features=features, pixels=one, deep=tuple(own))
            for digest, features, one, own in zip(
                digests, _by_image(encoded.pooler_output), pixels, deep, strict=True
            )
        }
        self.num_encoded += len(digests)

    def _features(self, pixels: Mapping[str, Tensor]) -> Any:
        inputs = {name: self._on_device(tensor) for name, tensor in pixels.items()}
        return self._model.get_image_features(**inputs, return_dict=True)

    def _on_device(self, tensor: Tensor) -> Tensor:
        dtype = self._model.dtype if tensor.is_floating_point() else None
        return tensor.to(self._model.device, dtype)


def choice_ids(
    prompter: Prompter, request: Request, *, image_sizes: Sequence[tuple[int, int]] = ()
) -> tuple[list[int], RowChoice]:
    """What all texts of a request's choice begin with, prompt included, and how each goes on.

    Each text is tokenised whole, because a word may be joined with what stands before it. Where nothing ends the word,
    the end token does, so that no word begins another.
    """
    assert request.choice is not None, "the caller looks"
    texts = []
    for word in request.choice.words:
        said = f"{request.prefill}{word}{request.choice.end}"
        text = rendered(prompter, replace(request, prefill=said))
        ids = prompter.prompt_ids(text, image_sizes=image_sizes)
        texts.append(tuple(ids if request.choice.end else [*ids, prompter.eos_token_id]))
    shared = common_prefix(texts)
    ordered = sorted(texts)  # a text that begins another stands before it
    for short, long in itertools.pairwise(ordered):
        if long[: len(short)] == short:
            word, other = (request.choice.words[texts.index(one)] for one in (short, long))
            raise PromptError(
                f"the labels {word!r} and {other!r} are not told apart by the model's tokens: one of them has none of its "
                "own; choose other words, or reasons: 1.0"
            )
    return list(texts[0][:shared]), RowChoice([text[shared:] for text in texts])


def chosen(choice: Choice, decided: RowChoice | None, num_tokens: int) -> Generation:
    """The answer to a request with a choice, once it is decided."""
    assert decided is not None, "made with the prompt"
    assert decided.place is not None, "decoding ends when one text is left"
    return Generation(
        text=choice.words[decided.place],
        prompt_tokens=num_tokens,
        completion_tokens=decided.steps,
        finish_reason="stop",
        probabilities=dict(zip(choice.words, decided.probabilities, strict=True)),
        choice_share=decided.share,
    )


def common_prefix(texts: Sequence[tuple[int, ...]]) -> int:
    """Tokens that all texts begin with, the last token of each left out: a forward needs at least one token."""
    first, last = min(texts), max(texts)  # whatever these two share, those between them share too
    limit = min(len(text) for text in texts) - 1
    same = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), limit)
    return min(same, limit)


def _by_image(pooled: Any) -> Sequence[Tensor]:
    """Features (tokens, H) of each image; those of an image's tiles follow on each other."""
    return [pooled.flatten(0, 1)] if isinstance(pooled, Tensor) else list(pooled)


def sampling_seed(prompt: str, image_digest: str | None, seed: int) -> int:
    """The seed of one sampled answer, in [0, 2**63): it follows from the rendered prompt, the image and the request's seed, so
    that neighbours in a batch change nothing."""
    content = f"{seed}\0{image_digest or ''}\0{prompt}"
    return int.from_bytes(hashlib.sha256(content.encode()).digest()[:8], "big") >> 1
