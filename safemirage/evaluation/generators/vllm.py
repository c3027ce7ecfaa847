"""Answers by vLLM, its engine in this process: continuous batching, prompts that share a prefix computed once.

Prompts are rendered, tokenised and decoded as for transformers, and images prepared by PIL, so that in float32 a
greedy answer is the same text from either engine.
"""

import logging
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import torch
from transformers import AutoConfig

from safemirage.config.generators import DecodingConfig
from safemirage.config.model import Presets
from safemirage.evaluation.generators import RequestRejected
from safemirage.evaluation.generators.decoding.continuous import Engine
from safemirage.evaluation.generators.decoding.prompts import sampling_seed
from safemirage.evaluation.types import Generation, Request
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
    """Digest of its image; empty without one."""
    seed: int
    limit: int
    """Tokens that the answer may have."""
    schema: str | None
    """JSON schema that the answer is kept to."""


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
    ) -> None:
        self._llm = engine
        self._prompter = prompter
        self._view = view
        self._key = dict(key)
        self._context: int = engine.llm_engine.model_config.max_model_len
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
    ) -> Self:
        """An engine on an export, a model folder or a hub id; an adapter is merged first, beside itself.

        Args:
            max_model_len: tokens of prompt and answer; None: the model's whole context.
            gpu_memory: share of the GPU's memory for all of the engine.

        Raises:
            ConfigError: nothing at `path`, or presets that its family does not have.
            ExportError: the folder is not what its manifest says.
        """
        folder = resolve_model(str(path))
        if is_adapter(folder):
            folder = merge_export(folder, dtype=dtype)
        known = verify_export(folder).files if (folder / MANIFEST_NAME).is_file() else None
        config = AutoConfig.from_pretrained(folder)
        processor = load_processor(folder, family_of(config), config, presets=presets)
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
        return cls(engine, Prompter(processor), key=key, view=view)

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

    def close(self) -> None:
        """Wait for the calls that run, then stop the engine."""
        self._engine.close()
        if self._view is not None:
            self._view.cleanup()

    def _prompts(self, requests: Sequence[Request], decoding: DecodingConfig) -> list[_Prompt]:
        """The prompts ordered by image: those that can share a computed prefix stand side by side."""
        images = {r.image.digest: r.image for r in requests if r.image is not None}
        opened = {digest: read_image(image.data) for digest, image in images.items()}
        prompts = [
            self._prompt(place, request, opened, decoding) for place, request in enumerate(requests)
        ]
        return sorted(prompts, key=lambda prompt: prompt.image)

    def _prompt(
        self, place: int, request: Request, opened: Mapping[str, Any], decoding: DecodingConfig
    ) -> _Prompt:
        digest = request.image.digest if request.image is not None else None
        image = opened[digest] if digest is not None else None
        text = self._prompter.prompt(
            request.question,
            has_image=image is not None,
            system=request.system,
            prefill=request.prefill,
        )
        ids = self._prompter.prompt_ids(text)
        inputs: dict[str, Any] = {"prompt_token_ids": ids}
        num_tokens = len(ids)
        if image is not None:
            inputs["multi_modal_data"] = {"image": image}
            inputs["multi_modal_uuids"] = {"image": digest}
            num_tokens += self._prompter.num_image_tokens(image.size) - 1
        if num_tokens + decoding.max_new_tokens > self._context:
            raise PromptError(
                f"a prompt of {num_tokens} tokens and max_new_tokens={decoding.max_new_tokens} do not fit "
                f"the engine's context of {self._context}"
            )
        seed = sampling_seed(text, digest, request.decoded_by(decoding).seed)
        return _Prompt(
            place=place,
            inputs=inputs,
            num_tokens=num_tokens,
            image=digest or "",
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
        limit_mm_per_prompt={"image": 1},
        # The default, torchvision, gives other pixels than training saw.
        mm_processor_kwargs={"backend": "pil"},
        # Between two tokens of JSON blanks may go on until no token of the answer is left.
        structured_outputs_config={"backend": "xgrammar", "disable_any_whitespace": True},
        disable_log_stats=True,
        seed=0,
    )
    return engine, vllm.__version__
