"""What a run needs to resume exactly where it was, beside the engine's shards: step, method state, random state."""

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from safemirage.training.workers import rank


@dataclass(frozen=True, kw_only=True)
class RunState:
    step: int
    """Finished optimizer steps: it decides the place in the data and in the schedule."""
    method: dict[str, Tensor]
    """What the method returned by `state_dict()`."""
    history: list[dict[str, float]]
    """Metrics of the tracked steps so far."""
    degenerate_at_start: float | None = None
    """Share of degenerate answers before the first step, where it was measured."""


def save_state(folder: Path, state: RunState) -> None:
    """One file a worker: what the engine's shards do not hold."""
    torch.save(
        {
            "step": state.step,
            "method": state.method,
            "history": state.history,
            "degenerate_at_start": state.degenerate_at_start,
            "random": _random_state(),
        },
        _path(folder),
    )


def load_state(folder: Path) -> RunState:
    """Reads the state and puts the random generators back to where they were."""
    saved = torch.load(_path(folder), map_location="cpu", weights_only=True)
    _restore_random_state(saved["random"])
    fields = ("step", "method", "history", "degenerate_at_start")
    return RunState(**{name: saved[name] for name in fields})


def seed_everything(seed: int, *, rank: int) -> None:
    """Seeds every generator of the process; workers draw apart (dropout), whatever else is shared."""
    mixed = int(np.random.SeedSequence([seed, rank]).generate_state(1)[0])
    torch.manual_seed(mixed)
    random.seed(mixed)
    np.random.seed(mixed)


def _path(folder: Path) -> Path:
    return folder / f"state-rank{rank()}.pt"


def _random_state() -> dict[str, Any]:
    numpy_state = np.random.get_state(legacy=False)
    assert isinstance(numpy_state, dict)
    generator = numpy_state["state"]
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
        "python": random.getstate(),
        "numpy": {
            "keys": torch.from_numpy(generator["key"].copy()),
            "position": generator["pos"],
            "has_gauss": numpy_state["has_gauss"],
            "gauss": numpy_state["gauss"],
        },
    }


def _restore_random_state(saved: dict[str, Any]) -> None:
    torch.set_rng_state(saved["torch"])
    if saved["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(saved["cuda"])
    random.setstate(saved["python"])
    numpy_state = saved["numpy"]
    np.random.set_state(
        {
            "bit_generator": "MT19937",
            "state": {"key": numpy_state["keys"].numpy(), "pos": numpy_state["position"]},
            "has_gauss": numpy_state["has_gauss"],
            "gauss": numpy_state["gauss"],
        }
    )
