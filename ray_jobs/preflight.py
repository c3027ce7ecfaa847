"""What a training run needs and does not have, all of it at once, before anything starts.

Imports torch for one thing only: the model's shape, where GPUs are asked for and their memory is known.
"""

import glob
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import httpx

from ray_jobs.capacity import GPU_MEMORY, gpu_memory, shown, worker_groups, worker_resources
from safemirage.config.identity import is_local
from safemirage.config.load import ConfigError
from safemirage.config.model import ModelConfig
from safemirage.config.train import TrainConfig, WorkersConfig
from safemirage.config.world import is_miniature
from safemirage.training.order import Division

_HUB_TIMEOUT_S = 5.0
_SMALLER = "change workers.count, workers.gpu or workers.cpus, or join a larger one by RAY_ADDRESS"


class PreflightError(ConfigError):
    """Things that a run needs are missing; one line each."""


def preflight(config: TrainConfig, *, nodes: Sequence[Mapping[str, float]]) -> list[str]:
    """One line for each thing that is missing; empty where the run can start.

    Args:
        nodes: all resources of each node that the cluster has or can come to.
    """
    model = check_weights(config.model)
    memory = [] if model else _memory(config, nodes)
    problems = [*_workers(config.workers, nodes), *model, *_data(config)]
    return [*problems, *_division(config), *memory]


def local_node() -> dict[str, float]:
    """What this machine would give a cluster of its own."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    devices = (
        glob.glob("/dev/nvidia[0-9]*") if visible is None else [d for d in visible.split(",") if d]
    )
    memory = gpu_memory() if devices else {}
    return {"CPU": float(os.cpu_count() or 1), "GPU": float(len(devices)), **memory}


def _workers(workers: WorkersConfig, nodes: Sequence[Mapping[str, float]]) -> list[str]:
    problems = []
    for name, each in worker_resources(workers).items():
        there = sum(node.get(name, 0.0) for node in nodes)
        if there < each * workers.count:
            problems.append(
                f"workers: {workers.count} worker(s) need {each * workers.count:g} {name}, and the cluster has "
                f"{there:g}; {_SMALLER}"
            )
    if not problems and not worker_groups(nodes, workers):
        each_has = "; ".join(shown(node) for node in nodes)
        problems.append(
            f"workers: {workers.count} worker(s) need {shown(worker_resources(workers))} each on one node, and the nodes "
            f"have {each_has}; {_SMALLER}"
        )
    return problems


def check_weights(model: ModelConfig) -> list[str]:
    """One line if nothing that can be a model is where `model.path` says."""
    path = model.path
    if is_miniature(path):
        return []
    local = Path(path).expanduser()
    if is_local(path) or local.exists():
        if (local / "config.json").is_file() or (local / "adapter_config.json").is_file():
            return []
        return [
            f"model.path: {path!r} holds no model (no config.json); name an export, a model folder or a hub id"
        ]
    return _hub_weights(path, model.revision)


def _hub_weights(path: str, revision: str) -> list[str]:
    from huggingface_hub import constants, try_to_load_from_cache

    if isinstance(try_to_load_from_cache(path, "config.json", revision=revision), str):
        return []
    way_out = "put the model's folder there instead, or fill the cache of the hub (HF_HOME)"
    if constants.HF_HUB_OFFLINE:
        return [
            f"model.path: {path!r} is not in the hub's cache, and HF_HUB_OFFLINE is set; {way_out}"
        ]
    try:
        httpx.head(f"{constants.ENDPOINT}/{path}", timeout=_HUB_TIMEOUT_S, follow_redirects=True)
    except httpx.TransportError as error:
        reason = f"{constants.ENDPOINT} cannot be reached ({error})"
        return [f"model.path: {path!r} is not in the hub's cache, and {reason}; {way_out}"]
    return []


def _memory(config: TrainConfig, nodes: Sequence[Mapping[str, float]]) -> list[str]:
    known = [node[GPU_MEMORY] for node in nodes if GPU_MEMORY in node]
    if not config.workers.gpu or not known or is_miniature(config.model.path):
        return []
    from safemirage.training.memory import memory_refusal
    from safemirage.training.shape import read_shape

    refused = memory_refusal(config, read_shape(config), gpu_bytes=int(max(known)))
    return [] if refused is None else [refused]


def _data(config: TrainConfig) -> list[str]:
    files = config.data.paths()
    folder = files.pop("image_folder", None)
    problems = [
        f"data.{name}: {path!r} is no file"
        for name, path in files.items()
        if not _there(path, Path.is_file)
    ]
    if folder is not None and not _there(folder, Path.is_dir):
        problems.append(f"data.image_folder: {folder!r} is no folder")
    return problems


def _there(path: str, test: Callable[[Path], bool]) -> bool:
    return is_miniature(path) or test(Path(path).expanduser())


def _division(config: TrainConfig) -> list[str]:
    try:
        Division(
            batch_size=config.optim.batch_size,
            world=config.workers.count,
            accumulation=config.optim.accumulation,
            group_size=config.group_size,
        )
    except ConfigError as error:
        return [str(error)]
    return []
