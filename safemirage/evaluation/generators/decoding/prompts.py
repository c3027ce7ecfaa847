"""Tokenised requests, and images encoded once while their questions stand side by side."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL.Image import Image
from torch import Tensor

from safemirage.evaluation.types import ChatRequest, Request
from safemirage.models.prompts import Prompter, cat_pixels


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


@dataclass(frozen=True, kw_only=True)
class _Encoded:
    features: Tensor
    """The image's tokens in the language model's space, (tokens, H)."""
    pixels: dict[str, Tensor]


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

    def position_inputs(self, input_ids_BT: Tensor, shown: Sequence[str]) -> dict[str, Tensor]:
        """What `generate` takes to give image tokens their positions; `shown` are the images that `of` gave last, in
        the rows' order."""
        pixels = [self._kept[digest].pixels for digest in shown]
        found = self._prompter.position_inputs(input_ids_BT, pixels)
        return {name: self._on_device(tensor) for name, tensor in found.items()}

    def _encode(self, digests: Sequence[str]) -> None:
        pixels = [self._prompter.pixels(self._images[name]) for name in digests]
        inputs = {name: self._on_device(tensor) for name, tensor in cat_pixels(pixels).items()}
        encoded = self._model.get_image_features(**inputs, return_dict=True).pooler_output
        self._kept |= {
            digest: _Encoded(features=features, pixels=one)
            for digest, features, one in zip(digests, encoded, pixels, strict=True)
        }
        self.num_encoded += len(digests)

    def _on_device(self, tensor: Tensor) -> Tensor:
        dtype = self._model.dtype if tensor.is_floating_point() else None
        return tensor.to(self._model.device, dtype)


def sampling_seed(prompt: str, image_digest: str | None, seed: int) -> int:
    """The seed of one sampled answer, in [0, 2**63): it follows from the rendered prompt, the image and the request's seed, so
    that neighbours in a batch change nothing."""
    content = f"{seed}\0{image_digest or ''}\0{prompt}"
    return int.from_bytes(hashlib.sha256(content.encode()).digest()[:8], "big") >> 1
