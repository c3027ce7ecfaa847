"""Our training step against the original's way, in the same process, step by step in turn.

    python -m tests.benchmarks.bench_train          about ten minutes on two quiet cores; on CUDA the 7B too

Prints a table, and last a line of JSON with every figure by name. Says at its end whether each bound was reached.
"""

import argparse
import gc
import json
import platform
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from safemirage.config.method import RMUConfig
from tests.benchmarks.train_measures import (
    as_dict,
    held_bytes,
    measure_step,
    seconds_by_part,
    time_step,
)
from tests.benchmarks.train_sides import Case, Ours, Side, cases, original, ours
from tests.benchmarks.train_world import SEVEN_B, SMALL, Shape, head_share

WEIGHTS_BOUND = 0.55
LOSS_BOUND = 1e-6
EPOCHS = (1, 10)
PEAK_FLOPS = {"H100": 989e12, "H200": 989e12, "A100": 312e12}
"""Dense bf16, from the data sheets."""


@dataclass(frozen=True)
class Spread:
    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        return cls(statistics.median(values), min(values), max(values))

    def __str__(self) -> str:
        return f"{self.median:.2f} [{self.low:.2f}, {self.high:.2f}]"


def bench_case(
    case: Case, shape: Shape, device: torch.device, *, checkpointing: bool, repeats: int
) -> dict[str, Any]:
    """All figures of one case."""
    mine = ours(case, shape, device, checkpointing=checkpointing)
    theirs = original(case, shape, device, checkpointing=checkpointing)
    terms = _compare(mine.side, theirs)
    timed = _time(mine, theirs, repeats=repeats)
    figures = {
        "terms": terms,
        "largest_loss_difference": max(term["relative_difference"] for term in terms.values()),
        **_ratios(mine, timed, shape),
        "weights_bytes": {s.name: held_bytes(s.held) for s in (mine.side, theirs)},
    }
    figures["weights_ratio"] = (
        figures["weights_bytes"]["ours"] / figures["weights_bytes"]["original"]
    )
    hook = case.method.hook_layer if isinstance(case.method, RMUConfig) else shape.layers
    for side in (mine.side, theirs):
        memory, flops = measure_step(side)
        figures[f"memory_{side.name}"] = as_dict(memory)
        figures[f"flops_{side.name}"] = flops
        if not checkpointing:
            figures[f"seconds_by_part_{side.name}"] = seconds_by_part(side, hook=hook)
    figures["peak_ratio"] = figures["memory_ours"]["peak"] / figures["memory_original"]["peak"]
    figures["flops_ratio"] = figures["flops_original"] / figures["flops_ours"]
    peak = _peak_flops(device)
    if peak is not None:
        figures["share_of_peak"] = figures["flops_ours"] / figures["seconds_ours"] / peak
    return figures


def _compare(mine: Side, theirs: Side) -> dict[str, dict[str, float]]:
    """The first step of both, from the same weights: each term, and how far the two are apart."""
    first, second = mine.step().parts, theirs.step().parts
    return {
        name: {
            "ours": first[name].item(),
            "original": value.item(),
            "relative_difference": abs(first[name].item() - value.item()) / abs(value.item()),
        }
        for name, value in second.items()
    }


def _time(mine: Ours, theirs: Side, *, repeats: int) -> dict[str, list[float]]:
    """Seconds of single steps in turn; the order changes from repeat to repeat."""

    def two_batches() -> float:
        with mine.side.computing(mine.two_batches):
            return time_step(mine.side)

    ways = [
        ("ours", lambda: time_step(mine.side)),
        ("original", lambda: time_step(theirs)),
        ("two_batches", two_batches),
    ]
    timed: dict[str, list[float]] = {name: [] for name, _ in ways}
    # Both have made their first step, when their terms were compared.
    for repeat in range(repeats):
        for name, act in ways[repeat % 3 :] + ways[: repeat % 3]:
            timed[name].append(act())
    return timed


def _ratios(mine: Ours, timed: dict[str, list[float]], shape: Shape) -> dict[str, Any]:
    own, base = timed["ours"], timed["original"]
    step = Spread.of([b / o for o, b in zip(own, base, strict=True)])
    apart = Spread.of([b / t for t, b in zip(timed["two_batches"], base, strict=True)])
    seconds = {f"seconds_{name}": statistics.median(values) for name, values in timed.items()}
    sets = len(mine.side.held[2])
    # A step uses up `batch` samples of each set; the cache pass sees each of them once.
    once = shape.batch * sets * mine.cache_s
    return {
        "step_ratio": step.median,
        "step_ratio_low": step.low,
        "step_ratio_high": step.high,
        "two_batches_ratio": apart.median,
        "two_batches_ratio_low": apart.low,
        "two_batches_ratio_high": apart.high,
        **seconds,
        "steps_per_s_ours": 1 / seconds["seconds_ours"],
        "steps_per_s_original": 1 / seconds["seconds_original"],
        "cache_seconds_per_sample": mine.cache_s,
        **{
            f"run_ratio_{n}_epochs": n
            * seconds["seconds_original"]
            / (n * seconds["seconds_ours"] + once)
            for n in EPOCHS
        },
    }


def _peak_flops(device: torch.device) -> float | None:
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((flops for chip, flops in PEAK_FLOPS.items() if chip in name), None)


def show(name: str, figures: dict[str, Any]) -> None:
    spread = Spread(figures["step_ratio"], figures["step_ratio_low"], figures["step_ratio_high"])
    apart = Spread(*(figures[f"two_batches_ratio{end}"] for end in ("", "_low", "_high")))
    print(f"\n{name}")
    print(
        f"  optimizer steps per second, ours / original   {spread}   counted {figures['flops_ratio']:.2f}"
    )
    print(
        f"  seconds a step: ours {figures['seconds_ours']:.3f}, original {figures['seconds_original']:.3f}"
    )
    epochs = ", ".join(f"{n}: {figures[f'run_ratio_{n}_epochs']:.2f}" for n in EPOCHS)
    print(f"  whole run with the reference pass, by epochs   {epochs}")
    print(f"  two different retain batches                   {apart}")
    print(
        f"  weights held {figures['weights_ratio']:.3f}, peak memory {figures['peak_ratio']:.2f}, "
        f"largest difference of a loss term {figures['largest_loss_difference']:.1e}"
    )
    for side in ("ours", "original"):
        sizes = ", ".join(
            f"{key} {value / 2**20:.0f}" for key, value in figures[f"memory_{side}"].items()
        )
        print(f"  {side:8} MiB: {sizes}")
        parts = figures.get(f"seconds_by_part_{side}", {})
        total = sum(parts.values())
        shares = ", ".join(f"{part} {100 * value / total:.0f} %" for part, value in parts.items())
        if parts:
            print(f"  {side:8} time: {shares}")
    if "share_of_peak" in figures:
        print(f"  share of the chip's peak {100 * figures['share_of_peak']:.0f} %")


def misses(case: Case, figures: dict[str, Any], *, checkpointing: bool) -> list[str]:
    """The bounds that a case does not keep, in words."""
    if case.bounds is None:
        return []
    found = []
    name = f"{case.name}{'_checkpointing' if checkpointing else ''}"
    bound = case.bounds[checkpointing]
    if figures["step_ratio"] < bound:
        found.append(f"{name}: steps {figures['step_ratio']:.2f} < {bound}")
    if figures["weights_ratio"] > WEIGHTS_BOUND:
        found.append(f"{name}: weights {figures['weights_ratio']:.3f} > {WEIGHTS_BOUND}")
    if figures["largest_loss_difference"] > LOSS_BOUND:
        found.append(f"{name}: a loss differs by {figures['largest_loss_difference']:.1e}")
    return found


def bench(shape: Shape, device: torch.device, *, repeats: int, only: str) -> dict[str, Any]:
    found: dict[str, Any] = {"output_layer_share": head_share(shape)}
    missed: list[str] = []
    print(
        f"{shape.name}: {shape.layers} layers x {shape.hidden}, {shape.dtype}, batch {shape.batch} of each set, "
        f"576 image tokens + 64 of text, output layer {100 * head_share(shape):.1f} % of a forward; {device}"
    )
    for case in cases(shape):
        if only not in case.name:
            continue
        for checkpointing in (False, True):
            name = f"{case.name}{'_checkpointing' if checkpointing else ''}"
            count = repeats if case.bounds else min(repeats, 2)
            try:
                figures = bench_case(
                    case, shape, device, checkpointing=checkpointing, repeats=count
                )
            except torch.OutOfMemoryError:
                # Both ways at once: full parameters of the 7B take more than 120 GB.
                found[name] = {"skipped": "both ways together do not fit into this GPU's memory"}
                print(f"\n{name}\n  skipped: {found[name]['skipped']}", flush=True)
                continue
            finally:
                gc.collect()
            found[name] = figures
            show(name, figures)
            sys.stdout.flush()
            if shape is SMALL:
                missed += misses(case, figures, checkpointing=checkpointing)
    return {**found, "missed": missed}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", default="", help="cases whose name contains this")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    found = {
        "small": bench(SMALL, device, repeats=args.repeats, only=args.only),
        "machine": platform.processor() or platform.machine(),
        "threads": args.threads,
        "torch": torch.__version__,
    }
    if device.type == "cuda":
        found["machine"] = torch.cuda.get_device_name(device)
        found["7B"] = bench(SEVEN_B, device, repeats=args.repeats, only=args.only)
    missed = found["small"]["missed"]
    print("\nbounds: " + ("all reached" if not missed else "; ".join(missed)))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
