"""How many trials, or engines, a cluster holds at a time; what it can never hold is refused with the numbers.

A trial is a driver, which sits on the head and asks for no CPU, and a Train worker group. Ray does not count the two
together, so a trial that took a CPU for its driver could wait for its own workers for ever.
"""

import shutil
import subprocess
from collections.abc import Mapping, Sequence

from safemirage.config.generators import GeneratorConfig, TransformersConfig, VLLMConfig
from safemirage.config.loading.load import ConfigError
from safemirage.config.train import WorkersConfig
from safemirage.models.presence import cuda_devices

Resources = Mapping[str, float]
DRIVER = {"node:__internal_head__": 0.001}
"""What a trial's driver reserves: next to nothing of a resource that every cluster's head has, whatever it was started
with. The head is also the node that goes last."""
MOST_DRIVERS = 16
"""Trials at a time where `max_concurrent` says nothing: each has a process on the head."""
GPU_MEMORY = "gpu_memory_bytes"
"""A key among a node's resources: the memory of its smallest GPU, where it is known."""
_ROUNDING = 1e-9
"""Ray keeps resources in steps of 1e-4; a sum of shares may miss the whole by the rounding of floats."""


class CapacityError(ConfigError):
    """The cluster can never run what was asked for."""


def engine_resources(model: GeneratorConfig, cpus: float | None, gpus: float | None) -> Resources:
    """What an engine reserves: a CPU, and a GPU if it computes on one, where nothing else is said."""
    on_gpu = isinstance(model, TransformersConfig) and model.device.startswith("cuda")
    if isinstance(model, VLLMConfig):
        on_gpu = cuda_devices() > 0
    num_gpus = float(on_gpu) if gpus is None else gpus
    return {"CPU": 1.0 if cpus is None else cpus, **({"GPU": num_gpus} if num_gpus else {})}


def worker_resources(workers: WorkersConfig) -> dict[str, float]:
    """What one Train worker reserves."""
    return {"CPU": workers.cpus, **({"GPU": 1.0} if workers.gpu else {})}


def gpu_memory() -> dict[str, float]:
    """{GPU_MEMORY: bytes} of the smallest GPU of this machine, as nvidia-smi says; empty where it says nothing."""
    if shutil.which("nvidia-smi") is None:
        return {}
    asked = subprocess.run(
        ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"],
        capture_output=True,
        text=True,
        check=False,
    )
    mebibytes = [float(line) for line in asked.stdout.split() if line.replace(".", "").isdigit()]
    return {GPU_MEMORY: min(mebibytes) * 2**20} if mebibytes else {}


def concurrent_trials(
    nodes: Sequence[Resources], workers: WorkersConfig, *, wanted: int | None
) -> int:
    """How many trials may run at a time, at most `wanted`.

    Args:
        nodes: all resources of each node that the cluster has or can come to.

    Raises:
        CapacityError: not even one trial fits; says what it needs and what the cluster has.
    """
    groups = worker_groups(nodes, workers)
    if not groups:
        raise CapacityError(
            f"search: a trial needs {workers.count} worker(s) with {shown(worker_resources(workers))} each, and the "
            f"cluster has {_summary(nodes)}; add nodes, or set workers.count, workers.cpus or workers.gpu in the train file"
        )
    return min(groups, wanted or MOST_DRIVERS)


def worker_groups(nodes: Sequence[Resources], workers: WorkersConfig) -> int:
    """Whole worker groups that the nodes hold side by side."""
    return sum(fitting(node, worker_resources(workers)) for node in nodes) // workers.count


def fitting(node: Resources, worker: Resources) -> int:
    """Workers that one node holds."""
    return int(min(node.get(name, 0.0) / amount for name, amount in worker.items()) + _ROUNDING)


def concurrent_engines(nodes: Sequence[Resources], engine: Resources, *, judges: int) -> int:
    """How many checkpoints may be open at a time beside `judges` judging models, each an engine of its own.

    Raises:
        CapacityError: not even one; says what is needed and what the cluster has.
    """
    room = sum(fitting(node, engine) for node in nodes)
    if room <= judges:
        raise CapacityError(
            f"evaluate: one checkpoint and {judges} judging model(s) need {shown(engine)} each, and the cluster has "
            f"{_summary(nodes)}; add nodes, or give engines less with --cpus or --gpus"
        )
    return room - judges


def _summary(nodes: Sequence[Resources]) -> str:
    return f"{len(nodes)} node(s) with {'; '.join(map(shown, nodes))}" if nodes else "no node"


def shown(resources: Resources) -> str:
    """CPUs and GPUs for a message: `CPU 2, GPU 0`."""
    names = ("CPU", "GPU") if "GPU" in resources else ("CPU",)
    return ", ".join(f"{name} {resources.get(name, 0.0):g}" for name in names)
