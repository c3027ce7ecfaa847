"""Our way of evaluating: `evaluate()` with a store, a generator that is given all conditions at once, the judge batched."""

import asyncio
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safemirage.config.generators import DecodingConfig
from safemirage.config.rates import Metric
from safemirage.evaluation.generators import Generator
from safemirage.evaluation.generators.transformers import TransformersGenerator
from safemirage.evaluation.judges import Judged
from safemirage.evaluation.judges.model import ModelJudge
from safemirage.evaluation.run.evaluate import EvaluationSpec, evaluate
from safemirage.evaluation.types import Generation, Request, Sample, Verdict
from safemirage.models.loading import DtypeName, load_for_inference
from safemirage.store import open_store
from tests.benchmarks.eval_side import (
    JUDGE_PROMPT,
    ONE_PASS_PROMPT,
    Moments,
    Side,
    Timing,
    timing_of,
)
from tests.benchmarks.eval_world import Lengths, Role
from tests.benchmarks.stage_clock import StageClock

ROWS = 64
_DECODING = DecodingConfig(max_new_tokens=Lengths.LIMITS["answer"])


def role_of(request: Request) -> Role:
    return "answer" if request.system is None else "judge"


class FixedLengths(TransformersGenerator):
    """Answers as long as `lengths` says; no token ends one."""

    lengths: Lengths

    def _limit(self, request: Request, decoding: DecodingConfig) -> int:
        return self.lengths.of(role_of(request), request.question)


class UnsafeOnly:
    """The original judges answers to unsafe questions alone."""

    measures: tuple[Metric, ...] = ("asr",)

    def __init__(self, judge: ModelJudge) -> None:
        self.name = judge.name
        self._judge = judge

    @property
    def key(self) -> Mapping[str, str]:
        return self._judge.key

    async def judge(self, items: Sequence[Judged]) -> list[Verdict]:
        asked = [item for item in items if item.sample.subset == "unsafe"]
        verdicts = dict(zip(map(id, asked), await self._judge.judge(asked), strict=True))
        none = Verdict(judge=self.name, label="unscored", reason="safe")
        return [verdicts.get(id(item), none) for item in items]


class Counted:
    """Counts the requests that reach a generator, and the seconds of each role."""

    def __init__(self, generator: Any) -> None:
        self._generator: Generator = generator
        self.calls: dict[Role, int] = {"answer": 0, "judge": 0}
        self.decoded = 0
        """Tokens after the first of each answer."""
        self.answers_end: float = 0.0
        self.stages: dict[str, float] = {}
        self.clock: StageClock | None = None

    @property
    def key(self) -> Mapping[str, str]:
        return self._generator.key

    async def generate(
        self, requests: Sequence[Request], decoding: DecodingConfig
    ) -> list[Generation]:
        answers = await self._generator.generate(requests, decoding)
        for request, answer in zip(requests, answers, strict=True):
            self.calls[role_of(request)] += 1
            self.decoded += answer.completion_tokens - 1
        if requests and role_of(requests[0]) == "answer" and self.clock is not None:
            self.answers_end, self.stages = time.perf_counter(), dict(self.clock.seconds)
        return answers


def run_through_store(
    generator: Any, samples: Sequence[Sample], lengths: Lengths, clock: StageClock
) -> Timing:
    """Evaluates into a new store, then once more: the second time no request may reach the model."""
    clock.start()
    counted = Counted(generator)
    counted.clock = clock
    with tempfile.TemporaryDirectory() as folder, open_store(f"sqlite:///{folder}/s.db") as store:
        judge = UnsafeOnly(
            ModelJudge(
                "judge",
                ONE_PASS_PROMPT if lengths.one_pass else JUDGE_PROMPT,
                counted,
                one_pass=lengths.one_pass,
            )
        )
        spec = EvaluationSpec(id="first", model="m", decoding=_DECODING, batch_size=len(samples))
        began = time.perf_counter()
        first = asyncio.run(evaluate(spec, samples, counted, [judge], store=store))
        ended = time.perf_counter()
        assert first.state == "finished", first.error
        calls, counts, decoded = dict(counted.calls), dict(clock.counts), counted.decoded
        again = EvaluationSpec(id="second", model="m", decoding=_DECODING, batch_size=len(samples))
        asyncio.run(evaluate(again, samples, counted, [judge], store=store))
    return timing_of(
        Moments(began=began, answered=counted.answers_end, ended=ended),
        stages=counted.stages,
        counts=counts,
        decoded=decoded,
        judge_calls=calls["judge"],
        model_calls_again=sum(counted.calls.values()) - sum(calls.values()),
    )


class TransformersSide(Side):
    name = "transformers"
    loads = 2
    """The model, and the judge."""

    def __init__(self, folder: Path, *, dtype: DtypeName, device: str) -> None:
        load_for_inference(folder, dtype=dtype, device=device)  # the first one imports, too
        began = time.perf_counter()
        loaded = load_for_inference(folder, dtype=dtype, device=device)
        self._generator = FixedLengths(loaded, batch_size=ROWS)
        self.load_s = time.perf_counter() - began
        self.products = self._generator.key["products"]
        self._generator._stop_ids = frozenset()
        self._clock = StageClock(num_rows=ROWS)
        model = loaded.model.model
        self._clock.watch(model.vision_tower, model.language_model)

    def run(self, samples: Sequence[Sample], lengths: Lengths) -> Timing:
        self._generator.lengths = lengths
        return run_through_store(self._generator, samples, lengths, self._clock)
