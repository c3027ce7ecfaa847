"""Answers by transformers, in this process: many at a time, each distinct image encoded once a call.

In float32 a greedy answer does not depend on what else is in its batch, and a sampled one neither: each request
draws from a generator of its own, seeded by its content.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol, Self

import torch
import transformers

from safemirage.config.generators import DecodingConfig
from safemirage.config.model import Presets
from safemirage.config.weights import WeightsConfig
from safemirage.evaluation.generators import RequestRejected
from safemirage.evaluation.generators.decoding.padding import PaddedDecoder
from safemirage.evaluation.generators.decoding.prompts import (
    ImageFeatures,
    TokenizedPrompt,
    choice_ids,
    chosen,
    images_key,
    rendered,
    sampling_seed,
)
from safemirage.evaluation.generators.decoding.shared_prefix import SharedPrefixDecoder
from safemirage.evaluation.types import Generation, Request
from safemirage.models.families import Family
from safemirage.models.images import ImageError, read_image
from safemirage.models.loading import DtypeName, LoadedModel, load_for_inference
from safemirage.models.precision import multiplies
from safemirage.models.prompts import Prompter, PromptError, stop_ids

_AS_SAVED = Presets()
_AS_THEY_ARE = WeightsConfig()
_LOG = logging.getLogger(__name__)


class Decoder(Protocol):
    """Turns tokenised prompts into new tokens."""

    name: str
    num_prefill_tokens: int
    """Tokens of prompts that went through the language model so far, padding left out."""
    num_steps: int
    """Forwards that gave each of their rows one token."""

    @property
    def rows(self) -> int:
        """Answers in the making at a time."""

    def decode(
        self,
        prompts: Sequence[TokenizedPrompt],
        features: ImageFeatures,
        decoding: DecodingConfig,
        stop_ids: frozenset[int],
    ) -> dict[int, list[int]]:
        """The new tokens of each prompt, by its place."""


class TransformersGenerator:
    """One model in this process. Calls take turns in one thread, so the event loop stays free."""

    def __init__(self, loaded: LoadedModel, *, batch_size: int = 32) -> None:
        self._loaded = loaded
        self._model = loaded.model.eval()
        self._dtype = self._model.dtype
        if not multiplies(self._dtype, self._model.device):
            _LOG.info("%s on this CPU: weights as they are, products in float32", self._dtype)
            self._model.float()
        self._prompter = Prompter(loaded.processor)
        self._stop_ids = stop_ids(self._model, self._prompter)
        self._context: int = self._model.config.get_text_config().max_position_embeddings
        self._decoder = self._build_decoder(loaded.family, batch_size)
        self.num_encoded_images = 0
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="generate")

    @classmethod
    def load(
        cls,
        path: Path | str,
        *,
        dtype: DtypeName = "float32",
        device: str = "cpu",
        batch_size: int = 32,
        presets: Presets = _AS_SAVED,
        changes: WeightsConfig = _AS_THEY_ARE,
    ) -> Self:
        """A generator of an export (an adapter is merged), a model folder or a hub id.

        Raises:
            ConfigError, ExportError: see `load_for_inference`.
        """
        loaded = load_for_inference(
            path, dtype=dtype, device=device, presets=presets, changes=changes
        )
        return cls(loaded, batch_size=batch_size)

    @property
    def key(self) -> Mapping[str, str]:
        return {
            "engine": "transformers",
            "version": f"{transformers.__version__}+torch{torch.__version__}",
            "decoder": self._decoder.name,
            "weights": self._loaded.weights_digest,
            "processor": self._loaded.processor_digest,
            # An adapter takes them from its base's generation config, which no digest of its own covers.
            "stop_tokens": " ".join(map(str, sorted(self._stop_ids))),
            "dtype": str(self._dtype).removeprefix("torch."),
            "products": str(self._model.dtype).removeprefix("torch."),
            "attention": self._model.config._attn_implementation,
            "device": self._model.device.type,
            **self._loaded.changes,
        }

    @property
    def decoder(self) -> Decoder:
        """The decoder, which counts what it computed so far."""
        return self._decoder

    async def generate(
        self, requests: Sequence[Request], decoding: DecodingConfig
    ) -> list[Generation]:
        """One answer a request, in order.

        Raises:
            RequestRejected: an image that cannot be read or prepared, or a prompt that
                leaves no room for `max_new_tokens` in the model's context.
        """
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(
                self._thread, self._generate, list(requests), decoding
            )
        except (PromptError, ImageError) as error:
            raise RequestRejected(str(error)) from error

    def close(self) -> None:
        """Waits for the running call and ends the thread; calls that wait are cancelled."""
        self._thread.shutdown(cancel_futures=True)

    def _build_decoder(self, family: Family, rows: int) -> Decoder:
        text = self._model.config.get_text_config()
        if family.supports_shared_prefix and getattr(text, "sliding_window", None) is None:
            # A row's mask is its own, which flash attention does not take.
            self._model.set_attn_implementation("sdpa")
            return SharedPrefixDecoder(
                self._model, family, rows=rows, image_token_id=self._prompter.image_token_id
            )
        _LOG.info("family %s: prompts of an image are not shared, batches are padded", family.name)
        return PaddedDecoder(self._model, rows=rows, pad_token_id=self._prompter.pad_token_id)

    @torch.inference_mode()
    def _generate(self, requests: list[Request], decoding: DecodingConfig) -> list[Generation]:
        images = {r.image.digest: r.image for r in requests if r.image is not None}
        opened = {digest: read_image(image.data) for digest, image in images.items()}
        prompts = [
            self.tokenized(request, opened, decoding, place=place)
            for place, request in enumerate(requests)
        ]
        features = self.image_features(opened)
        answers = self._decoder.decode(prompts, features, decoding, self._stop_ids)
        self.num_encoded_images += features.num_encoded
        return [
            self._generation(prompt, answers[prompt.place])
            if request.choice is None
            else chosen(request.choice, prompt.choice, len(prompt.ids))
            for prompt, request in zip(prompts, requests, strict=True)
        ]

    @property
    def stop_ids(self) -> frozenset[int]:
        """Tokens that end an answer."""
        return self._stop_ids

    @property
    def image_token_id(self) -> int:
        return self._prompter.image_token_id

    def decode(self, ids: Sequence[int]) -> str:
        """The text of an answer's tokens."""
        return self._prompter.decode(ids)

    def token_text(self, token: int) -> str:
        """One token as text, with the space that it may begin with."""
        return self._prompter.token_text(token)

    def image_features(self, opened: Mapping[str, Any]) -> ImageFeatures:
        """What the language model sees of these images, by their digests."""
        return ImageFeatures(self._model, self._prompter, opened)

    def tokenized(
        self,
        request: Request,
        opened: Mapping[str, Any],
        decoding: DecodingConfig,
        *,
        place: int = 0,
    ) -> TokenizedPrompt:
        """The request in tokens. Raises PromptError where it cannot be put to the model."""
        text = rendered(self._prompter, request)
        sizes = [opened[image.digest].size for image in request.images]
        ids, choice = self._prompter.prompt_ids(text, image_sizes=sizes), None
        if request.choice is not None:
            ids, choice = choice_ids(self._prompter, request, image_sizes=sizes)
        if len(ids) + decoding.max_new_tokens > self._context:
            raise PromptError(
                f"a prompt of {len(ids)} tokens and max_new_tokens={decoding.max_new_tokens} do not fit "
                f"the model's context of {self._context}"
            )
        return TokenizedPrompt(
            place=place,
            ids=tuple(ids),
            image=images_key(request),
            seed=sampling_seed(text, images_key(request), request.decoded_by(decoding).seed),
            limit=self._limit(request, decoding),
            choice=choice,
        )

    def _limit(self, request: Request, decoding: DecodingConfig) -> int:
        """Tokens that the answer may have."""
        return decoding.max_new_tokens

    def _generation(self, prompt: TokenizedPrompt, new_ids: list[int]) -> Generation:
        end = next((i for i, token in enumerate(new_ids) if token in self._stop_ids), None)
        spoken = new_ids if end is None else new_ids[: end + 1]
        return Generation(
            text=self._prompter.decode(spoken),
            prompt_tokens=len(prompt.ids),
            completion_tokens=len(spoken),
            finish_reason="length" if end is None else "stop",
        )
