"""The memory of LLaVA-1.5 on eight GPUs and the cheapest setting that fits, as the table in docs/guides/running.md.

python -m tests.benchmarks.memory_table
"""

import sys
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from safemirage.config.loading.load import load_config
from safemirage.config.model import LoraConfig
from safemirage.config.train import TrainConfig
from safemirage.training.estimate.memory import GIB, cheapest_fit, estimate_memory
from safemirage.training.estimate.shape import read_shape
from tests.training.estimate.empty_models import write_empty_llava

_GPUS = (24, 40, 80)
_SHORT = {
    "model.gradient_checkpointing=true": "checkpointing",
    "engine.offload_optimizer=true": "offload",
    "engine.offload_parameters=true": "offload of weights",
    "engine.stage=3": "stage 3",
}


def main() -> None:
    lines = ["| model | weights | method | as it is | 24 GiB | 40 GiB | 80 GiB |", "|" + "---|" * 7]
    with TemporaryDirectory() as name:
        for billions in (7, 13):
            folder = Path(name) / str(billions)
            folder.mkdir()
            write_empty_llava(folder, billions=billions)
            for method in ("NPO", "RMU"):
                for lora in (None, LoraConfig()):
                    lines.append(row(folder, billions, method, lora))
    sys.stdout.write("\n".join(lines) + "\n")


def row(folder: Path, billions: int, method: str, lora: LoraConfig | None) -> str:
    file = f"configs/train/llava_v1.5_7b_{method.lower()}_full.yaml"
    config = load_config(TrainConfig, file, [f"model.path={folder}", "engine.stage=2"])
    config = replace(
        config,
        model=replace(config.model, lora=lora, trainable=(), gradient_checkpointing=False),
        workers=replace(config.workers, count=8),
    )
    shape = read_shape(config)
    held = estimate_memory(config, shape, tokens=config.model.max_length).total / GIB
    cells = [cell(cheapest_fit(config, shape, gpu_bytes=size * GIB)) for size in _GPUS]
    kind = "full" if lora is None else f"LoRA {lora.rank}"
    return f"| {billions}B | {kind} | {method} | {held:.0f} GiB | {' | '.join(cells)} |"


def cell(overrides: list[str] | None) -> str:
    if overrides is None:
        return "does not fit"
    return ", ".join(_SHORT[one] for one in overrides) or "fits"


if __name__ == "__main__":
    main()
