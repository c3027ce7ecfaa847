"""What a worker holds of trained weights and optimizer, told by parameter, so that any other sharing can take it up.

Each worker writes the pieces that it holds: of each parameter the float32 weights and both moments, and where in the
parameter they begin. Who reads takes whatever overlaps with its own pieces, from however many files. That is why a run
resumes on another number of workers and another ZeRO stage. DeepSpeed's universal checkpoint comes to the same by a
conversion between the two runs, which reads and writes everything once more and knows no stage 0; torch's distributed
checkpoint reads DTensors, which DeepSpeed's shards are not.
"""

from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from safemirage.training.job import CheckpointError

_MOMENTS = ("exp_avg", "exp_avg_sq")
BYTES_OF_NUMBER = 12
"""A weight and its two moments in float32."""

Saved = dict[str, dict[str, Any]]
"""By the parameter's name: `start`, the optimizer's `step`, and `weight`, `exp_avg` and `exp_avg_sq` from there on."""


@dataclass(frozen=True, eq=False)
class Piece:
    """A stretch of one parameter, as it lies in what the optimizer updates."""

    name: str
    """The parameter's name in the model."""
    start: int
    """Where in the flattened parameter it begins."""
    held: Tensor
    """What the optimizer calls a parameter: one of the model, or a flat tensor made of many."""
    offset: int
    """Where in it the stretch begins."""
    numel: int

    def of(self, tensor: Tensor) -> Tensor:
        """The stretch of a tensor that is laid out as `held` is."""
        return tensor.detach().view(-1).narrow(0, self.offset, self.numel)


def copy_pieces(pieces: Sequence[Piece], states: Mapping[Tensor, Mapping[str, Any]]) -> Saved:
    """Copies on the CPU, so that training can go on while they are written.

    Args:
        states: the optimizer's `state`.
    """
    saved: Saved = {}
    for piece in pieces:
        # A parameter that never had a gradient has no state; moments of zero before step 1 are the same.
        state = states.get(piece.held, {})
        moments = {
            name: _on_host(piece.of(state[name])) if state else torch.zeros(piece.numel)
            for name in _MOMENTS
        }
        saved[piece.name] = {
            "start": piece.start,
            "step": float(state.get("step", 0)),
            "weight": _on_host(piece.of(piece.held)),
            **moments,
        }
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return saved


def fill_pieces(
    pieces: Sequence[Piece],
    states: MutableMapping[Tensor, Any],
    saved: Sequence[Saved],
    *,
    step_is_tensor: bool,
) -> None:
    """Puts what any workers saved into this one's weights and optimizer.

    Args:
        states: the optimizer's `state`; what it does not hold before its first step is made.
        step_is_tensor: PyTorch's optimizers count their steps in a tensor, DeepSpeed's in a number.

    Raises:
        CheckpointError: a part of a piece is in none of them.
    """
    for piece in pieces:
        state = states[piece.held]
        if not state:
            state |= {name: torch.zeros_like(piece.held) for name in _MOMENTS}
        targets = {name: piece.of(state[name]) for name in _MOMENTS}
        targets["weight"] = piece.of(piece.held)
        found = 0
        for entry, source, target, length in _overlaps(piece, saved):
            found += length
            for name, tensor in targets.items():
                tensor.narrow(0, target, length).copy_(entry[name].narrow(0, source, length))
            step = entry["step"]
            state["step"] = torch.tensor(step) if step_is_tensor else int(step)
        if found != piece.numel:
            raise CheckpointError(
                f"{piece.name}: {piece.numel:,} numbers from {piece.start:,} on are needed and {found:,} were saved"
            )


def _overlaps(
    piece: Piece, saved: Sequence[Saved]
) -> Iterator[tuple[dict[str, Any], int, int, int]]:
    """(entry, place in the entry, place in the piece, length) of what was saved of a piece."""
    for part in saved:
        entry = part.get(piece.name)
        if entry is None:
            continue
        begin = max(piece.start, entry["start"])
        end = min(piece.start + piece.numel, entry["start"] + entry["weight"].numel())
        if begin < end:
            yield entry, begin - entry["start"], begin - piece.start, end - begin


def _on_host(tensor: Tensor) -> Tensor:
    if tensor.device.type != "cuda":
        return tensor.clone()
    # Page-locked memory is what a GPU copies into at full speed, and without waiting for each.
    copy = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return copy.copy_(tensor, non_blocking=True)
