"""What the initial weights say of a fixed set: constants, computed once before training and kept by content.

A run that restarts, and every trial of a search, reads them instead of holding a second model.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from safemirage.config.loading.identity import digest_of
from safemirage.files import whole_file
from safemirage.methods.forward import inference, supervised_logps
from safemirage.training.samples.batches import SampleSet
from safemirage.training.workers import rank, sum_over_workers, world_size


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


def reference_logps(model: nn.Module, samples: SampleSet, how: ReferencePass) -> Tensor:
    """(N,) float32 on the CPU: summed log-probability of each sample's supervised tokens, in nats. Collective.

    `model` holds its initial weights (a fresh adapter changes nothing). Each worker computes some batches; how the
    set is cut into batches does not depend on the number of workers.
    """
    path = how.path(samples)
    # All workers must go the same way: with the file seen by only some of them, all compute.
    num_found = sum_over_workers(torch.tensor([float(path.is_file())], device=how.device))
    if int(num_found) == world_size():
        return load_file(path)["logps"]
    logps_N = _compute(model, samples, how)
    if rank() == 0:
        _write(path, logps_N)
    return logps_N


def _compute(model: nn.Module, samples: SampleSet, how: ReferencePass) -> Tensor:
    # The engine that moves the model for training does not exist yet.
    model.to(how.device)
    # Neighbours of like length waste little padding.
    by_length = sorted(range(len(samples)), key=lambda index: len(samples.samples[index].ids))
    chunks = [
        by_length[start : start + how.batch_size]
        for start in range(0, len(samples), how.batch_size)
    ]
    logps_N = torch.zeros(len(samples), device=how.device)
    with inference(model):
        for indices in chunks[rank() :: world_size()]:
            batch = samples.batch(indices, global_indices=indices, device=how.device)
            logps_B = supervised_logps(model, batch).float()
            logps_N[torch.tensor(indices, device=how.device)] = logps_B
    # Each worker has zeros where others computed, so the sum is the whole.
    return sum_over_workers(logps_N).cpu()


def _write(path: Path, logps_N: Tensor) -> None:
    with whole_file(path) as draft:
        save_file({"logps": logps_N}, draft)
