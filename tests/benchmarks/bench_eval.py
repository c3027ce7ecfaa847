"""The original's way of evaluating a checkpoint against ours: same model, same machine, same questions, same run.

    python -m tests.benchmarks.bench_eval [--images 22] [--dtype bfloat16] [--repetitions 4]

Each side lives in a process of its own with its model loaded, and they take turns. The last line is one JSON object with
every figure by name. On a CPU the model is a small LLaVA in the 7B's proportions, with CUDA the 7B's own shape.
"""

import argparse
import json
import logging
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from safemirage.models.loading import DtypeName
from tests.benchmarks.eval_side import STAGES, Side, Timing
from tests.benchmarks.eval_world import (
    FULL_PROMPTS,
    SEVEN_B,
    SMALL,
    Lengths,
    sampled,
    write_model,
)

JUDGE_MEAN = 80
ORIGINAL, SAME_PRODUCTS = "original", "original_same_products"
OURS = ("transformers", "vllm")
ONE_PASS = "_one_pass"
"""Follows the name of a side of ours whose judge says its label by one forward pass, as `corrected` has it; without it
the judge writes as many tokens as the original's."""
_SAME_PRODUCTS_REPETITIONS = 2
_WARM = 16
"""Prompts that each side answers before any is timed: unsafe ones are among them, so the judge is warm too."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    folder: Path
    dtype: DtypeName
    device: str
    images: int


class Worker:
    """A side in a process of its own."""

    def __init__(self, name: str, setting: Setting) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(name, setting, theirs), name=name)
        began = time.perf_counter()
        self._process.start()
        theirs.close()
        self.name = name
        self.load_s, self.loads, self.products = self._pipe.recv()
        self.start_s = time.perf_counter() - began
        """With its imports."""

    def run(
        self,
        mean: int,
        *,
        judge_mean: int = JUDGE_MEAN,
        samples: int | None = None,
        one_pass: bool = False,
    ) -> Timing:
        """One repetition, of the first `samples` alone where that is said."""
        self._pipe.send((mean, judge_mean, samples, one_pass))
        timing: Timing = self._pipe.recv()
        return timing

    def close(self) -> None:
        self._pipe.send(None)
        self._process.join(30)


def _serve(name: str, setting: Setting, pipe: Connection) -> None:
    logging.disable(logging.WARNING)
    side = _open(name, setting)
    samples = sampled(setting.images)
    pipe.send((side.load_s, side.loads, side.products))
    while (asked := pipe.recv()) is not None:
        mean, judge_mean, count, one_pass = asked
        lengths = Lengths(len(samples), answer_mean=mean, judge_mean=judge_mean, one_pass=one_pass)
        pipe.send(side.run(samples[:count], lengths))


def _open(name: str, setting: Setting) -> Side:
    kind: Any
    if name == "vllm":
        from tests.benchmarks.eval_vllm import VLLMSide as kind
    elif name == "transformers":
        from tests.benchmarks.eval_ours import TransformersSide as kind
    else:
        from tests.benchmarks.eval_original import OriginalSide

        return OriginalSide(
            setting.folder,
            dtype=setting.dtype,
            device=setting.device,
            products="float32" if name == SAME_PRODUCTS else setting.dtype,
        )
    side: Side = kind(setting.folder, dtype=setting.dtype, device=setting.device)
    return side


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A side at one answer length."""

    worker: Worker
    timings: Sequence[Timing]

    @property
    def load_s(self) -> float:
        """Loading, at the sample's share of the full protocol."""
        return self.worker.loads * self.worker.load_s * self._share

    @property
    def _share(self) -> float:
        return self.num_prompts / FULL_PROMPTS

    num_prompts: int

    @property
    def totals_s(self) -> list[float]:
        return [timing.total_s + self.load_s for timing in self.timings]

    def stage_s(self, stage: str) -> float:
        return statistics.median(timing.stages[stage] for timing in self.timings)


def measure(
    workers: Sequence[Worker], mean: int, repetitions: int, num_prompts: int
) -> dict[str, Measured]:
    """All sides in turn, `repetitions` times; fewer for what is measured beside the benchmark's own question."""
    timings: dict[str, list[Timing]] = {}
    of = {f"{worker.name}{kind}": worker for worker in workers for kind in ("", ONE_PASS)}
    for number in range(repetitions):
        for worker in workers:
            if worker.name != SAME_PRODUCTS or number < _SAME_PRODUCTS_REPETITIONS:
                timings.setdefault(worker.name, []).append(worker.run(mean))
            if worker.name in OURS:
                taken = worker.run(mean, one_pass=True)
                timings.setdefault(f"{worker.name}{ONE_PASS}", []).append(taken)
    return {
        name: Measured(worker=of[name], timings=taken, num_prompts=num_prompts)
        for name, taken in timings.items()
    }


def figures(measured: dict[str, Measured], mean: int) -> dict[str, Any]:
    """Every figure by name; ratios are of repetitions that ran side by side, loads at their weight included."""
    found: dict[str, Any] = {}
    for name, item in measured.items():
        base = f"answers_{mean}.{name}"
        first = item.timings[0]
        found |= {
            f"{base}.repetitions": len(item.timings),
            f"{base}.total_s": statistics.median(item.totals_s),
            f"{base}.load_s": item.load_s,
            **{f"{base}.{stage}_s": item.stage_s(stage) for stage in STAGES},
            f"{base}.image_encodings": first.image_encodings,
            f"{base}.prefill_tokens": first.prefill_tokens,
            f"{base}.judge_calls": first.judge_calls,
            f"{base}.model_calls_again": first.model_calls_again,
        }
        for other in (ORIGINAL, SAME_PRODUCTS):
            if name.removesuffix(ONE_PASS) in OURS and other in measured:
                ratios = [
                    theirs / ours
                    for theirs, ours in zip(measured[other].totals_s, item.totals_s, strict=False)
                ]
                found |= {
                    f"{base}.against_{other}": statistics.median(ratios),
                    f"{base}.against_{other}_min": min(ratios),
                    f"{base}.against_{other}_max": max(ratios),
                }
    return found


def show(console: Console, measured: dict[str, Measured], found: dict[str, Any], mean: int) -> None:
    table = Table(
        title=f"seconds by stage, answers of {mean} tokens on average, judge's of {JUDGE_MEAN}",
        title_justify="left",
    )
    rows = ("load", *STAGES, "total")
    for column in ("side", *rows, "images encoded", "prompt tokens", "judge calls", "x original"):
        table.add_column(column, justify="left" if column == "side" else "right")
    for name in measured:
        base = f"answers_{mean}.{name}"
        counts = [
            found[f"{base}.{count}"]
            for count in ("image_encodings", "prefill_tokens", "judge_calls")
        ]
        ratio = found.get(f"{base}.against_{ORIGINAL}")
        table.add_row(
            name,
            *(f"{found[f'{base}.{row}_s']:.2f}" for row in rows),
            *map(str, counts),
            f"{ratio:.1f}" if ratio is not None else "",
        )
    console.print(table)


@contextmanager
def started(names: Sequence[str], setting: Setting) -> Iterator[list[Worker]]:
    with ExitStack() as stack:
        workers = []
        for name in names:
            worker = Worker(name, setting)
            stack.callback(worker.close)
            workers.append(worker)
        yield workers


def main() -> None:
    options = _options()
    console = Console(width=170)
    began = time.perf_counter()
    on_cuda = torch.cuda.is_available()
    images = options.images or (100 if on_cuda else 22)
    samples = sampled(images)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        dtype: DtypeName = options.dtype
        shape = SEVEN_B if on_cuda else SMALL
        setting = Setting(
            folder=write_model(Path(folder), shape, getattr(torch, dtype)),
            dtype=dtype,
            device="cuda" if on_cuda else "cpu",
            images=images,
        )
        with started([ORIGINAL, *OURS], setting) as workers, ExitStack() as stack:
            if any(worker.products != dtype for worker in workers):
                extra = Worker(SAME_PRODUCTS, setting)
                stack.callback(extra.close)
                workers.append(extra)
            for worker in workers:
                console.print(
                    f"{worker.name}: started in {worker.start_s:.1f} s, of which one load {worker.load_s:.2f} s; "
                    f"weights {dtype}, products {worker.products}"
                )
                found[f"{worker.name}.load_s"] = worker.load_s
                found[f"{worker.name}.start_s"] = worker.start_s
                found[f"{worker.name}.products"] = worker.products
                worker.run(4, judge_mean=4, samples=_WARM)
                if worker.name in OURS:
                    worker.run(4, judge_mean=4, samples=_WARM, one_pass=True)
            for mean, repetitions in (
                (64, options.repetitions),
                (32, -(-options.repetitions // 2)),
            ):
                # What the number format alone gives is measured once, at the usual length.
                sides = [w for w in workers if mean == 64 or w.name != SAME_PRODUCTS]
                measured = measure(sides, mean, repetitions, len(samples))
                new = figures(measured, mean)
                found |= new
                show(console, measured, new, mean)
    found |= {
        "prompts": len(samples), "images": images, "dtype": dtype, "device": setting.device,
        "threads": torch.get_num_threads(), "seconds": time.perf_counter() - began,
    }  # fmt: skip
    print(json.dumps({name: _short(value) for name, value in found.items()}))


def _short(value: Any) -> Any:
    return float(f"{value:.4g}") if isinstance(value, float) else value


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, help="in the sample; the full protocol has 1,000")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--repetitions", type=int, default=4)
    return parser.parse_args()


if __name__ == "__main__":
    main()
