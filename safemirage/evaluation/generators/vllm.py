"""Answers by vLLM, its engine in this process: continuous batching, prompts that share a prefix computed once.

Prompts are rendered, tokenised and decoded as for transformers, and images prepared by PIL, so that in float32 a
greedy answer is the same text from either engine.
"""

import asyncio
import logging
import os
import tempfile
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import torch
from transformers import AutoConfig

from safemirage.config.generators import DecodingConfig
from safemirage.config.loading.load import ConfigError
from safemirage.config.model import Presets
from safemirage.evaluation.generators import RequestRejected
from safemirage.evaluation.generators.decoding.choice import RowChoice
from safemirage.evaluation.generators.decoding.continuous import Engine
from safemirage.evaluation.generators.decoding.prompts import (
    choice_ids,
    chosen,
    images_key,
    rendered,
    sampling_seed,
)
from safemirage.evaluation.generators.speech import Chance, ChatAnswer, Delta, Speech, whole
from safemirage.evaluation.types import ChatOptions, ChatRequest, Generation, Request
from safemirage.models.export import merge_export, verify_export
from safemirage.models.families import family_of
from safemirage.models.images import ImageError, read_image
from safemirage.models.loading import DtypeName, resolve_model
from safemirage.models.manifest import MANIFEST_NAME, is_adapter, weights_digest
from safemirage.models.precision import multiplies, stored_dtypes
from safemirage.models.processor import load_processor, presets_digest, write_view
from safemirage.models.prompts import Prompter, PromptError

_FINISH_REASONS: Mapping[str, Literal["stop", "length"]] = {"stop": "stop", "length": "length"}
_AS_SAVED = Presets()
_LOG = logging.getLogger(__name__)
_TORCH = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_CPU_BLOCK = 32
"""Tokens of a block of the cache: the smallest that the CPU's attention takes."""


@dataclass(frozen=True, kw_only=True)
class _Prompt:
    """A request as the engine takes it, and its place among the requests."""

    place: int
    inputs: dict[str, Any]
    num_tokens: int
    """Length of the prompt, image tokens included."""
    image: str
    """What its images are known by; empty without any."""
    seed: int
    limit: int
    """Tokens that the answer may have."""
    schema: str | None
    """JSON schema that the answer is kept to."""


@dataclass(frozen=True, kw_only=True)
class _Choosing:
    """A request with a choice, while it is decided."""

    prompt: _Prompt
    ids: list[int]
    """The prompt, and the tokens that were chosen."""
    choice: RowChoice


class VLLMGenerator:
    """One engine a process, which vLLM sets up for itself: give it a process of its own.

    All requests of a call go to the engine at once, beside those of other calls, and it takes in as many as its cache
    holds. It keeps images it has encoded, and prefixes, from call to call.
    """

    def __init__(
        self,
        engine: Any,
        prompter: Prompter,
        *,
        key: Mapping[str, str],
        view: "tempfile.TemporaryDirectory[str] | None" = None,
        max_images: int = 1,
    ) -> None:
        self._llm = engine
        self._prompter = prompter
        self._view = view
        self._key = dict(key)
        self._context: int = engine.llm_engine.model_config.max_model_len
        self._max_images = max_images
        self._engine = Engine(engine)

    @classmethod
    def load(
        cls,
        path: Path | str,
        *,
        dtype: DtypeName = "float32",
        max_model_len: int | None = None,
        gpu_memory: float = 0.9,
        presets: Presets = _AS_SAVED,
        max_images: int = 1,
    ) -> Self:
        """An engine on an export, a model folder or a hub id; an adapter is merged first, beside itself.

        Args:
            max_model_len: tokens of prompt and answer; None: the model's whole context.
            gpu_memory: share of the GPU's memory for all of the engine.
            max_images: images of one conversation; vLLM keeps memory for as many.

        Raises:
            ConfigError: nothing at `path`, presets that its family does not have, or a family that vLLM answers for
                otherwise than transformers does.
            ExportError: the folder is not what its manifest says.
        """
        folder = resolve_model(str(path))
        if is_adapter(folder):
            folder = merge_export(folder, dtype=dtype)
        known = verify_export(folder).files if (folder / MANIFEST_NAME).is_file() else None
        config = AutoConfig.from_pretrained(folder)
        family = family_of(config)
        if not family.alike_in_vllm:
            raise ConfigError(
                f"{path}: vLLM does not give the answers that transformers gives for models of the family {family.name}, "
                "so it is not used for them; take name: transformers (engine: transformers in a service's file)"
            )
        processor = load_processor(folder, family, config, presets=presets)
        view = None
        if presets != _AS_SAVED:
            # vLLM prepares images by the processor that it reads from the model's folder, also after its start.
            view = tempfile.TemporaryDirectory(prefix="safemirage-presets-")
            write_view(folder, processor, Path(view.name))
        products = _products(folder, dtype)
        engine, version = _start_engine(
            folder if view is None else Path(view.name),
            dtype=products,
            max_model_len=max_model_len,
            gpu_memory=gpu_memory,
            max_images=max_images,
        )
        key = {
            "engine": "vllm",
            "version": f"{version}+torch{torch.__version__}",
            "weights": weights_digest(folder, known=known),
            "processor": presets_digest(folder, presets),
            "dtype": dtype,
            "products": products,
            "device": engine.llm_engine.vllm_config.device_config.device_type,
        }
        return cls(engine, Prompter(processor), key=key, view=view, max_images=max_images)

    @property
    def key(self) -> Mapping[str, str]:
        return self._key

    async def generate(
        self, requests: Sequence[Request], decoding: DecodingConfig
    ) -> list[Generation]:
        """One answer a request, in order.

        Raises:
            RequestRejected: an image that cannot be read or prepared, or a prompt that
                leaves no room for `max_new_tokens` in the engine's context.
        """
        if not requests:
            return []
        if any(request.choice is not None for request in requests):
            return await self._mixed(requests, decoding)
        prompts: list[_Prompt] = []

        def enqueue() -> list[str]:
            prompts.extend(self._prompts(requests, decoding))
            ids: list[str] = self._llm.enqueue(
                [prompt.inputs for prompt in prompts],
                [self._sampling(prompt, decoding) for prompt in prompts],
                use_tqdm=False,
            )
            return ids

        try:
            outputs = await self._engine.answers(enqueue)
        except (PromptError, ImageError) as error:
            raise RequestRejected(str(error)) from error
        answers = {
            prompt.place: self._generation(prompt, output.outputs[0])
            for prompt, output in zip(prompts, outputs, strict=True)
        }
        return [answers[place] for place in range(len(requests))]

    async def _mixed(
        self, requests: Sequence[Request], decoding: DecodingConfig
    ) -> list[Generation]:
        """Answers to requests with a choice, and to those without."""
        places = [place for place, request in enumerate(requests) if request.choice is None]
        free = await self.generate([requests[place] for place in places], decoding)
        found = dict(zip(places, free, strict=True))
        asked = [place for place in range(len(requests)) if place not in found]
        decided = await self._choose([requests[place] for place in asked], decoding)
        found |= dict(zip(asked, decided, strict=True))
        return [found[place] for place in range(len(requests))]

    async def _choose(
        self, requests: Sequence[Request], decoding: DecodingConfig
    ) -> list[Generation]:
        """One token a round, of those that the texts go on with; mostly one round decides. What a round has computed of a
        prompt the next one finds in the cache."""
        rows: list[_Choosing] = []

        def enqueue() -> list[str]:
            if not rows:
                opened = self._opened(requests)
                for place, request in enumerate(requests):
                    prompt = self._prompt(place, request, opened, decoding)
                    ids, choice = choice_ids(self._prompter, request)
                    rows.append(_Choosing(prompt=prompt, ids=ids, choice=choice))
            waiting = [row for row in rows if row.choice.place is None]
            names: list[str] = self._llm.enqueue(
                [{**row.prompt.inputs, "prompt_token_ids": row.ids} for row in waiting],
                [_one_of(row.choice.tokens) for row in waiting],
                use_tqdm=False,
            )
            return names

        try:
            while not rows or any(row.choice.place is None for row in rows):
                outputs = await self._engine.answers(enqueue)
                waiting = [row for row in rows if row.choice.place is None]
                for row, output in zip(waiting, outputs, strict=True):
                    found = output.outputs[0].logprobs[0]
                    logprobs = {token: found[token].logprob for token in row.choice.tokens}
                    row.ids.append(row.choice.take(logprobs))
        except (PromptError, ImageError) as error:
            raise RequestRejected(str(error)) from error
        return [
            chosen(request.choice, row.choice, row.prompt.num_tokens)
            for request, row in zip(requests, rows, strict=True)
            if request.choice is not None
        ]

    @property
    def running(self) -> int:
        """Calls that the engine works on."""
        return self._engine.running

    async def answer(self, request: Request, decoding: DecodingConfig) -> ChatAnswer:
        """The whole answer. A caller that is cancelled leaves the engine. Raises RequestRejected."""
        return whole([delta async for delta in self._deltas(request, decoding, streamed=False)])

    def stream(self, request: Request, decoding: DecodingConfig) -> AsyncIterator[Delta]:
        """The answer token by token. A caller that closes it leaves the engine."""
        return self._deltas(request, decoding, streamed=True)

    async def _deltas(
        self, request: Request, decoding: DecodingConfig, *, streamed: bool
    ) -> AsyncIterator[Delta]:
        heard = _Heard(self, request, decoding, streamed=streamed)
        call = asyncio.ensure_future(self._engine.answers(heard.enqueue, heard.hear))
        call.add_done_callback(heard.told_of)
        try:
            while True:
                delta = await heard.told.get()
                # The call ended without an answer, by what it raises here.
                if delta is None:
                    await call
                    raise RuntimeError("vLLM ended a call without its last token")
                yield delta
                if delta.finish_reason is not None:
                    return
        except (PromptError, ImageError, ValueError) as error:
            raise RequestRejected(str(error)) from error
        finally:
            call.cancel()

    def heard(self, prompt: _Prompt, decoding: DecodingConfig, options: ChatOptions) -> Any:
        """Sampling parameters of an answer that is heard token by token."""
        from vllm.sampling_params import RequestOutputKind

        params = self._sampling(prompt, decoding)
        params.output_kind = RequestOutputKind.DELTA
        params.frequency_penalty = options.frequency_penalty
        params.presence_penalty = options.presence_penalty
        params.logprobs = options.top_logprobs
        return params

    def chance(
        self, token: int, chances: Mapping[int, Any] | None, options: ChatOptions
    ) -> Chance | None:
        if chances is None or options.top_logprobs is None:
            return None
        spoken = self._prompter.token_text
        # vLLM adds the chosen token to the likeliest where it is none of them.
        ranked = sorted(chances.items(), key=lambda item: item[1].rank)[: options.top_logprobs]
        top = tuple((spoken(one), found.logprob) for one, found in ranked)
        return Chance(text=spoken(token), logprob=chances[token].logprob, top=top)

    def close(self) -> None:
        """Wait for the calls that run, then stop the engine."""
        self._engine.close()
        if self._view is not None:
            self._view.cleanup()

    def _prompts(self, requests: Sequence[Request], decoding: DecodingConfig) -> list[_Prompt]:
        """The prompts ordered by image: those that can share a computed prefix stand side by side."""
        opened = self._opened(requests)
        prompts = [
            self._prompt(place, request, opened, decoding) for place, request in enumerate(requests)
        ]
        return sorted(prompts, key=lambda prompt: prompt.image)

    def _opened(self, requests: Sequence[Request]) -> dict[str, Any]:
        images = {image.digest: image for one in requests for image in one.images}
        return {digest: read_image(image.data) for digest, image in images.items()}

    def _prompt(
        self, place: int, request: Request, opened: Mapping[str, Any], decoding: DecodingConfig
    ) -> _Prompt:
        digests = [image.digest for image in request.images]
        if len(digests) > self._max_images:
            raise PromptError(
                f"{len(digests)} images in a conversation; this engine was started for {self._max_images}"
            )
        text = rendered(self._prompter, request)
        ids = self._prompter.prompt_ids(text)
        inputs: dict[str, Any] = {"prompt_token_ids": ids}
        num_tokens = len(ids)
        if digests:
            shown = [opened[digest] for digest in digests]
            inputs["multi_modal_data"] = {"image": shown}
            inputs["multi_modal_uuids"] = {"image": digests}
            num_tokens += sum(self._prompter.num_image_tokens(one.size) - 1 for one in shown)
        if num_tokens + decoding.max_new_tokens > self._context:
            raise PromptError(
                f"a prompt of {num_tokens} tokens and max_new_tokens={decoding.max_new_tokens} do not fit "
                f"the engine's context of {self._context}"
            )
        seed = sampling_seed(text, images_key(request), request.decoded_by(decoding).seed)
        return _Prompt(
            place=place,
            inputs=inputs,
            num_tokens=num_tokens,
            image=images_key(request) or "",
            seed=seed,
            limit=self._limit(request, decoding),
            schema=request.schema,
        )

    def _sampling(self, prompt: _Prompt, decoding: DecodingConfig) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import StructuredOutputsParams

        greedy = decoding.temperature == 0
        return SamplingParams(
            max_tokens=prompt.limit,
            temperature=decoding.temperature,
            top_p=1.0 if greedy else decoding.top_p,
            seed=None if greedy else prompt.seed,
            detokenize=False,
            structured_outputs=None
            if prompt.schema is None
            else StructuredOutputsParams(json=prompt.schema),
        )

    def _limit(self, request: Request, decoding: DecodingConfig) -> int:
        """Tokens that the answer may have."""
        return decoding.max_new_tokens

    def _generation(self, prompt: _Prompt, completion: Any) -> Generation:
        reason = _FINISH_REASONS.get(completion.finish_reason)
        if reason is None:
            raise RuntimeError(f"vLLM ended an answer for the reason {completion.finish_reason!r}")
        return Generation(
            text=self._prompter.decode(completion.token_ids),
            prompt_tokens=prompt.num_tokens,
            completion_tokens=len(completion.token_ids),
            finish_reason=reason,
        )


class _Heard:
    """One answer that is heard token by token. `enqueue` and `hear` run in the engine's thread."""

    def __init__(
        self,
        generator: VLLMGenerator,
        request: Request,
        decoding: DecodingConfig,
        *,
        streamed: bool,
    ) -> None:
        self._generator = generator
        self._request = request
        self._decoding = decoding
        self._options = request.options if isinstance(request, ChatRequest) else ChatOptions()
        self._streamed = streamed
        self._speech: Speech | None = None
        self._loop = asyncio.get_running_loop()
        self.told: asyncio.Queue[Delta | None] = asyncio.Queue()
        """What is new, as it comes; None when the call has ended."""

    def enqueue(self) -> list[str]:
        generator = self._generator
        [prompt] = generator._prompts([self._request], self._decoding)
        self._speech = Speech(
            generator._prompter.decode,
            prompt_tokens=prompt.num_tokens,
            limit=prompt.limit,
            stop=self._options.stop,
        )
        # The engine's own method, because LLM.enqueue tells of whole answers only.
        name: str = generator._llm.llm_engine.add_request(
            uuid.uuid4().hex,
            prompt.inputs,
            generator.heard(prompt, self._decoding, self._options),
        )
        return [name]

    def hear(self, output: Any) -> bool:
        """Takes an output of the engine; True when the answer has ended."""
        speech, said = self._speech, output.outputs[0]
        assert speech is not None, "it was enqueued"
        for place, token in enumerate(said.token_ids):
            chances = said.logprobs[place] if said.logprobs else None
            if speech.hear(token, self._generator.chance(token, chances, self._options)):
                break
        if said.finish_reason is not None:
            speech.end(_FINISH_REASONS[said.finish_reason])
        ended = speech.finish_reason is not None
        if (self._streamed or ended) and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(
                self.told.put_nowait, speech.tell(self._generator.running)
            )
        return ended

    def told_of(self, _call: "asyncio.Future[list[Any]]") -> None:
        self.told.put_nowait(None)


def _one_of(tokens: Sequence[int]) -> Any:
    """Sampling of one token among a few, with the logarithms of their probabilities among all tokens."""
    from vllm import SamplingParams

    return SamplingParams(
        max_tokens=1,
        temperature=0.0,
        allowed_token_ids=list(tokens),
        logprob_token_ids=list(tokens),
        detokenize=False,
    )


def _products(folder: Path, dtype: DtypeName) -> DtypeName:
    """The number format that vLLM computes in: `dtype`, but float32 where the CPU has no units for it.

    Only where the weights are stored in `dtype`: taken up into float32 they are the same numbers, and the products
    closer. vLLM packs weights as it loads them, so that they could not be rounded first.
    """
    if torch.cuda.is_available() or multiplies(_TORCH[dtype], torch.device("cpu")):
        return dtype
    if stored_dtypes(folder) != {dtype}:
        return dtype
    _LOG.info("%s on this CPU: weights as they are, products in float32", dtype)
    return "float32"


def _start_engine(
    folder: Path,
    *,
    dtype: DtypeName,
    max_model_len: int | None,
    gpu_memory: float,
    max_images: int,
) -> tuple[Any, str]:
    """vLLM's offline engine and version. vLLM reads the environment when it is imported."""
    # One process: no core is lost to an engine process that waits by spinning.
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB for keys and values, on the CPU only
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    import vllm
    from vllm.platforms import current_platform

    engine = vllm.LLM(
        model=str(folder),
        dtype=dtype,
        max_model_len=max_model_len,
        gpu_memory_utilization=gpu_memory,
        enable_prefix_caching=True,
        # Whole blocks alone are shared. The CPU's default, 128 tokens, leaves 99 of LLaVA's 611 to each question.
        block_size=_CPU_BLOCK if current_platform.is_cpu() else None,
        # Compilation on the CPU takes minutes and gains little there.
        enforce_eager=current_platform.is_cpu(),
        limit_mm_per_prompt={"image": max_images},
        # The default, torchvision, gives other pixels than training saw.
        mm_processor_kwargs={"backend": "pil"},
        # Between two tokens of JSON blanks may go on until no token of the answer is left.
        structured_outputs_config={"backend": "xgrammar", "disable_any_whitespace": True},
        disable_log_stats=True,
        seed=0,
    )
    return engine, vllm.__version__
