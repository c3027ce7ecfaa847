"""What a training run needs and does not have, all of it at once, before anything starts.

Imports torch for one thing only: the model's shape, where GPUs are asked for and their memory is known.
"""

import glob
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ray_jobs.cluster.capacity import GPU_MEMORY, gpu_memory, shown, worker_groups, worker_resources
from safemirage.config.loading.load import ConfigError
from safemirage.config.model import ModelConfig
from safemirage.config.train import TrainConfig, WorkersConfig
from safemirage.config.world import is_miniature
from safemirage.evaluation.run.preflight import missing_of
from safemirage.extras import absent, install_hint
from safemirage.models.presence import missing_weights
from safemirage.training.samples.order import Division

_PACKAGES = ("ray", "torch", "transformers", "mlflow")
_WATCH_JUDGES = "watch.evaluation.judges"
_SMALLER = "change workers.count, workers.gpu or workers.cpus, or join a larger one by RAY_ADDRESS"


def preflight(
    config: TrainConfig, *, nodes: Sequence[Mapping[str, float]], is_trial: bool = False
) -> list[str]:
    """One line for each thing that is missing; empty where the run can start.

    Args:
        nodes: all resources of each node that the cluster has or can come to.
        is_trial: whether a search has made sure before that the cluster holds the workers. A node that went away since
            is the machine's fault, and is waited for.
    """
    engine = ["deepspeed"] if config.engine.name == "deepspeed" else []
    if missing := absent(*_PACKAGES, *engine):
        return [install_hint(*missing)]
    model = check_weights(config.model)
    memory = [] if model else _memory(config, nodes)
    room = [] if is_trial else _workers(config.workers, nodes)
    problems = [*room, *model, *_data(config)]
    watch = config.watch
    judges = [] if watch is None else missing_of(watch.evaluation.judges, key=_WATCH_JUDGES)
    return [*problems, *_division(config), *memory, *judges]


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
    wrong = missing_weights(model.path, model.revision)
    return [] if wrong is None else [f"model.path: {wrong}"]


def _memory(config: TrainConfig, nodes: Sequence[Mapping[str, float]]) -> list[str]:
    known = [node[GPU_MEMORY] for node in nodes if GPU_MEMORY in node]
    if not config.workers.gpu or not known or is_miniature(config.model.path):
        return []
    from safemirage.training.estimate.memory import memory_refusal
    from safemirage.training.estimate.shape import read_shape

    refused = memory_refusal(config, read_shape(config), gpu_bytes=int(min(known)))
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
