"""When a run's state is written, and how it is taken up again: exactly where it was, on any number of workers.

A checkpoint holds one file a worker: its pieces of weights and optimizer (`pieces.py`) and the state of its random
generators; the first worker's has the step, the method's state and the metrics so far, too.
"""

import logging
import random
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from safemirage.text.numbers import percent
from safemirage.training.engine import Engine
from safemirage.training.job import TrainJob
from safemirage.training.saving.checkpoint import Checkpoints
from safemirage.training.saving.pieces import BYTES_OF_NUMBER
from safemirage.training.workers import barrier, rank, sum_over_workers, world_size

_LOG = logging.getLogger(__name__)
_SHARE_HELD = 0.1
"""More of a run's time than this spent on checkpoints is said."""
_FIRST_JUDGED_S = 60.0
"""A run's first minute says nothing of the hours that follow."""


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


class Saver:
    """The checkpoints of a run that goes on meanwhile. All calls but the properties are collective."""

    def __init__(
        self, job: TrainJob, *, engine: Engine, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._config = job.config.checkpoint
        self._seed = job.config.seed
        self._engine = engine
        self._checkpoints = open_checkpoints(job)
        self._clock = clock
        self._started = self._last = clock()
        self._held_s = 0.0
        self._has_warned = False

    @property
    def is_open(self) -> bool:
        """Whether a checkpoint was begun that is not known to be whole; the same on every worker."""
        return self._checkpoints is not None and self._checkpoints.is_open

    @property
    def is_writing(self) -> bool:
        return self._checkpoints is not None and self._checkpoints.is_writing

    @property
    def is_due(self) -> bool:
        """Whether `checkpoint.every` has passed by this worker's clock."""
        every = self._config.every_s
        return every is not None and self._clock() - self._last >= every

    def save(self, state: RunState) -> Path | None:
        """Copies what is to be written, and has it written in the background.

        Returns:
            The checkpoint before, where it has become whole by this; the training waits for it.
        """
        if self._checkpoints is None:
            return None
        before = self.collect()
        begun = self._clock()
        content = {**self._engine.copy_state(), "random": _random_state()}
        if rank() == 0:
            content["run"] = asdict(state)
        numbers = sum(entry["weight"].numel() for entry in content["pieces"].values())
        total = torch.tensor([float(numbers)], dtype=torch.float64, device=self._engine.device)
        num_bytes = int(sum_over_workers(total).item()) * BYTES_OF_NUMBER
        self._checkpoints.begin(state.step, content, num_bytes=num_bytes)
        self._last = self._clock()
        self._count(begun)
        return before

    def collect(self) -> Path | None:
        """The folder of the checkpoint that was begun last, which is whole from now on; None where there is none.

        Raises:
            StorageError: it could not be written.
        """
        if self._checkpoints is None:
            return None
        begun = self._clock()
        folder = self._checkpoints.commit()
        self._count(begun)
        return folder

    def resume(self) -> RunState | None:
        """Takes up the newest checkpoint: weights, optimizer and random generators; what the loop is to take up."""
        if self._checkpoints is None:
            return None
        # First what a killed attempt left half written, then the newest whole one.
        self._checkpoints.clean()
        folder = self._checkpoints.newest()
        if folder is None:
            return None
        # Checked before it is loaded: a damaged file could load as wrong numbers.
        self._checkpoints.verify(folder)
        saved = self._checkpoints.read(folder)
        self._engine.load_state(saved)
        state = RunState(**saved[0]["run"])
        if len(saved) == world_size():
            _restore_random_state(saved[rank()]["random"])
        else:
            # No generator of these workers has a past: dropout, which alone draws from them, is drawn afresh.
            seed_everything(self._seed, rank=rank(), step=state.step)
        # No worker may write the next checkpoint, and remove this one, while another still reads it.
        barrier()
        return state

    def _count(self, begun: float) -> None:
        """Adds up how long the training stood still for checkpoints, and says once that it is much."""
        now = self._clock()
        self._held_s += now - begun
        ran = now - self._started
        share = self._held_s / ran if ran > 0 else 0.0
        if rank() or self._has_warned or ran < _FIRST_JUDGED_S or share <= _SHARE_HELD:
            return
        self._has_warned = True
        _LOG.warning(
            "checkpoints: the training stood still for %s of its time (%.0f s of %.0f s) while they were copied and "
            "written; write fewer (checkpoint.every, checkpoint.every_steps), or onto a faster disk",
            percent(share),
            self._held_s,
            ran,
        )


def open_checkpoints(job: TrainJob) -> Checkpoints | None:
    """The run's checkpoints; they fit its identity and its engine, whatever the stage or the number of workers."""
    if job.checkpoints is None:
        return None
    layout = {"identity": job.identity, "engine": job.config.engine.name}
    return Checkpoints(job.checkpoints, layout=layout, keep=job.config.checkpoint.keep)


def seed_everything(seed: int, *, rank: int, step: int = 0) -> None:
    """Seeds every generator of the process; workers draw apart (dropout), whatever else is shared."""
    words = [seed, rank, step] if step else [seed, rank]
    mixed = int(np.random.SeedSequence(words).generate_state(1)[0])
    torch.manual_seed(mixed)
    random.seed(mixed)
    np.random.seed(mixed)


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
