"""The group of workers as tensors see it: rank, size, sums. Without a process group it is a group of one."""

import torch.distributed as dist
from torch import Tensor


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def sum_over_workers(values: Tensor) -> Tensor:
    """The element-wise sum, in place, on every worker. Collective."""
    if world_size() > 1:
        dist.all_reduce(values)
    return values


def barrier() -> None:
    if world_size() > 1:
        dist.barrier()
