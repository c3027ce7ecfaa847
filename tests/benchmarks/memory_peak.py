"""The peak memory of two CPU workers on a LLaVA of random weights, beside the estimate.

    python -m tests.benchmarks.memory_peak [millions of parameters]

Each worker is a process of its own; its imports are subtracted. Its peak is that of the whole run: loading, reference
pass, steps and export.
"""

import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from transformers import LlavaForConditionalGeneration

from safemirage.training.estimate.memory import estimate_memory
from safemirage.training.estimate.shape import read_shape
from tests.tiny import build_tiny_llava
from tests.tiny_run import make_tiny_run, tiny_train_config
from tests.training.group import run_group


def build(folder: Path, millions: int) -> None:
    """The tiny LLaVA with a language model of a size that counts; 12.8 million parameters a layer."""
    tiny = build_tiny_llava(0)
    config = tiny.model.config
    text = config.text_config
    text.hidden_size, text.intermediate_size = 1024, 2816
    text.num_attention_heads = text.num_key_value_heads = 16
    text.head_dim = 64
    text.num_hidden_layers = max(1, round(millions / 12.8))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        LlavaForConditionalGeneration(config).save_pretrained(folder)
    tiny.processor.save_pretrained(folder)


def measure(
    tree: dict[str, Any], folder: Path, stage: int, method: dict[str, Any]
) -> dict[str, Any]:
    config = tiny_train_config(
        tree,
        method=method,
        engine={"name": "deepspeed", "stage": stage},
        workers={"count": 2},
        optim={"steps": 2},
        checkpoint={"every_steps": 100},
    )
    run_group([config], world=2, folder=folder)
    peaks = []
    for rank in range(2):
        before, peak = map(int, (folder / "0" / f"peak-bytes-{rank}").read_text().split())
        peaks.append(peak - before)
    estimate = estimate_memory(config, read_shape(config), tokens=64)
    return {
        "stage": stage,
        "method": method["name"],
        "measured_mib": [round(peak / 2**20) for peak in peaks],
        "estimated_mib": round(estimate.total / 2**20),
        "whole_model_mib": round(4 * read_shape(config).parameters / 2**20),
    }


def main() -> None:
    millions = int(sys.argv[1]) if len(sys.argv) > 1 else 300
    with TemporaryDirectory() as name:
        folder = Path(name)
        tree = make_tiny_run(folder / "tiny")
        build(folder / "large", millions)
        tree["model"]["path"] = str(folder / "large")
        for stage in (2, 3):
            result = measure(tree, folder / f"zero{stage}", stage, {"name": "npo", "beta": 0.5})
            sys.stdout.write(json.dumps(result) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
