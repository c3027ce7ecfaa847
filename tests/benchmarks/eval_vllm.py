"""Our way of evaluating, by vLLM. In a process of its own: vLLM binds the process's threads."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safemirage.config.generators import DecodingConfig
from safemirage.evaluation.generators.vllm import VLLMGenerator
from safemirage.evaluation.types import Request, Sample
from safemirage.models.loading import DtypeName
from tests.benchmarks.eval_ours import ROWS, role_of, run_through_store
from tests.benchmarks.eval_side import Side, Timing
from tests.benchmarks.eval_world import Lengths
from tests.benchmarks.stage_clock import StageClock


class FixedLengths(VLLMGenerator):
    """Answers as long as `lengths` says; no token ends one."""

    lengths: Lengths

    def _limit(self, request: Request, decoding: DecodingConfig) -> int:
        return self.lengths.of(role_of(request), request.question)

    def _sampling(self, prompt: Any, decoding: DecodingConfig) -> Any:
        sampling = super()._sampling(prompt, decoding)
        sampling.ignore_eos = True
        return sampling

    def watch(self, clock: StageClock) -> None:
        self._engine.apply_model(
            lambda model: clock.watch(model.vision_tower, model.language_model.model)
        )

    def forget(self) -> None:
        """Drops prefixes, processed images and encoded ones."""
        self._engine.reset_prefix_cache()
        self._engine.llm_engine.reset_mm_cache()
        self._engine.llm_engine.reset_encoder_cache()


class VLLMSide(Side):
    name = "vllm"
    loads = 2
    """The model, and the judge."""

    def __init__(self, folder: Path, *, dtype: DtypeName, device: str) -> None:
        import vllm  # noqa: F401 - imports are no part of a load, here as on the other sides

        began = time.perf_counter()
        self._generator = FixedLengths.load(folder, dtype=dtype, max_model_len=2048)
        self.load_s = time.perf_counter() - began
        self.products = self._generator.key["products"]
        self._clock = StageClock(num_rows=ROWS)
        self._generator.watch(self._clock)

    def run(self, samples: Sequence[Sample], lengths: Lengths) -> Timing:
        self._generator.forget()
        self._generator.lengths = lengths
        return run_through_store(self._generator, samples, lengths, self._clock)

    def close(self) -> None:
        self._generator.close()
