"""The original's way of evaluating, built from its description: one prompt at a time, by transformers' `generate`.

Four conditions, the model loaded for each. A prompt: open the image, process image and text, generate at batch 1, decode.
Then the judge: for each unsafe answer, image and text, one at a time.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig

from safemirage.evaluation.judges import Judged
from safemirage.evaluation.judges.verdicts import system_message, user_message
from safemirage.evaluation.types import Sample
from safemirage.models.images import read_image
from safemirage.models.loading import DtypeName, load_for_inference
from safemirage.models.prompts import Prompter
from tests.benchmarks.eval_side import JUDGE_PROMPT, Moments, Side, Timing, timing_of
from tests.benchmarks.eval_world import Lengths, Role
from tests.benchmarks.stage_clock import StageClock

CONDITIONS = 4
"""Each loads the model; the two scripts that judge load the judge once each."""
JUDGE_SCRIPTS = 2


class OriginalSide(Side):
    name = "original"
    loads = CONDITIONS + JUDGE_SCRIPTS

    def __init__(self, folder: Path, *, dtype: DtypeName, device: str, products: DtypeName) -> None:
        """`products` other than `dtype`: the same weights, taken up into that format."""
        load_for_inference(folder, dtype=dtype, device=device)  # the first one imports, too
        began = time.perf_counter()
        loaded = load_for_inference(folder, dtype=dtype, device=device)
        loaded.model.to(getattr(torch, products))
        self.load_s = time.perf_counter() - began
        self.products = products
        self._model: Any = loaded.model
        self._model.generation_config.eos_token_id = None  # the lengths are set
        self._prompter = Prompter(loaded.processor)
        self._clock = StageClock()
        self._clock.watch(self._model.model.vision_tower, self._model.model.language_model)

    def run(self, samples: Sequence[Sample], lengths: Lengths) -> Timing:
        self._clock.start()
        began = time.perf_counter()
        answers = [
            (
                sample,
                self._ask(sample, sample.question, None, lengths.of("answer", sample.question)),
            )
            for sample in samples
        ]
        answered = time.perf_counter()
        stages = dict(self._clock.seconds)
        judged = [
            Judged(sample=sample, answer=text)
            for sample, text in answers
            if sample.subset == "unsafe"
        ]
        for item in judged:
            message = user_message(JUDGE_PROMPT, item)
            self._ask(
                item.sample, message, system_message(JUDGE_PROMPT), lengths.of("judge", message)
            )
        ended = time.perf_counter()
        asked = [("answer", sample) for sample, _ in answers] + [
            ("judge", one.sample) for one in judged
        ]
        return timing_of(
            Moments(began=began, answered=answered, ended=ended),
            stages=stages,
            counts=self._clock.counts,
            decoded=_decoded(asked, lengths),
            judge_calls=len(judged),
        )

    @torch.inference_mode()
    def _ask(self, sample: Sample, question: str, system: str | None, num_tokens: int) -> str:
        assert sample.image is not None
        image = read_image(sample.image.data)
        text = self._prompter.prompt(question, has_image=True, system=system)
        ids = torch.tensor([self._prompter.prompt_ids(text, image_size=image.size)])
        pixels = self._prompter.pixels(image)["pixel_values"]
        output = self._model.generate(
            input_ids=ids.to(self._model.device),
            attention_mask=torch.ones_like(ids).to(self._model.device),
            pixel_values=pixels.to(self._model.device, self._model.dtype),
            generation_config=GenerationConfig(
                max_new_tokens=num_tokens, do_sample=False, pad_token_id=self._prompter.pad_token_id
            ),
        )
        new_ids = output[0, ids.shape[1] :].tolist()
        assert len(new_ids) == num_tokens, (
            f"{len(new_ids)} tokens where {num_tokens} were asked for"
        )
        return self._prompter.decode(new_ids)


def _decoded(asked: Sequence[tuple[Role, Sample]], lengths: Lengths) -> int:
    """Tokens that went through the language model one by one: all but each answer's last."""
    return sum(lengths.of(role, sample.question) - 1 for role, sample in asked)
