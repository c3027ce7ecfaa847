"""What the initial weights say of a fixed set: constants, computed once before training and kept by content.

A run that restarts, and every trial of a search, reads them instead of holding a second model.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from safemirage.config.loading.identity import digest_of
from safemirage.files import whole_file
from safemirage.methods.forward import supervised_logps
from safemirage.training.samples.batches import SampleSet
from safemirage.training.workers import rank, sum_over_workers, world_size

Infer = Callable[[Callable[[nn.Module], Tensor]], Tensor]


@dataclass(frozen=True, kw_only=True)
class ReferencePass:
    """How reference log-probabilities are computed and where they are kept."""

    cache: Path
    device: torch.device
    batch_size: int
    model_key: Mapping[str, str]
    """All that decides the model's numbers: weights digest, dtype, attention."""

    def path(self, samples: SampleSet) -> Path:
        key = digest_of({**self.model_key, "samples": samples.digest, "kind": "sequence_logps"})
        return self.cache / "reference" / f"{key}.safetensors"


def reference_logps(infer: Infer, samples: SampleSet, how: ReferencePass) -> Tensor:
    """(N,) float32 on the CPU: summed log-probability of each sample's supervised tokens, in nats. Collective.

    Args:
        infer: of an engine whose model holds its initial weights (a fresh adapter changes nothing). Each worker computes
            some batches; how the set is cut into batches does not depend on the number of workers.
    """
    path = how.path(samples)
    # All workers must go the same way: with the file seen by only some of them, all compute.
    num_found = sum_over_workers(torch.tensor([float(path.is_file())], device=how.device))
    if int(num_found) == world_size():
        return load_file(path)["logps"]
    logps_N = _compute(infer, samples, how)
    if rank() == 0:
        _write(path, logps_N)
    return logps_N


def _compute(infer: Infer, samples: SampleSet, how: ReferencePass) -> Tensor:
    # Neighbours of like length waste little padding.
    by_length = sorted(range(len(samples)), key=lambda index: len(samples.samples[index].ids))
    chunks = [
        by_length[start : start + how.batch_size]
        for start in range(0, len(samples), how.batch_size)
    ]
    logps_N = torch.zeros(len(samples), device=how.device)
    world = world_size()
    for number in range(-(-len(chunks) // world)):
        place = number * world + rank()
        # Under ZeRO-3 all must take part: a worker with nothing left computes the first batch again, and drops it.
        indices = chunks[place if place < len(chunks) else 0]
        batch = samples.batch(indices, global_indices=indices, device=how.device)
        logps_B = infer(partial(supervised_logps, batch=batch)).float()
        if place < len(chunks):
            logps_N[torch.tensor(indices, device=how.device)] = logps_B
    # Each worker has zeros where others computed, so the sum is the whole.
    return sum_over_workers(logps_N).cpu()


def _write(path: Path, logps_N: Tensor) -> None:
    with whole_file(path) as draft:
        save_file({"logps": logps_N}, draft)
