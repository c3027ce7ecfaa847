"""Training runs in a group of processes of this machine, without Ray: gloo over a file, one config after the other.

    found = run_group([config, ...], world=2, folder=tmp_path)

As a module it is one worker of such a group; the first argument names the folder, then come rank and world size.
"""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from safemirage.config.loading.load import build_config, to_tree
from safemirage.config.train import TrainConfig
from safemirage.training.job import Report, StepMetrics, TrainJob

ROOT = Path(__file__).parents[2]


def start_group(
    configs: Sequence[TrainConfig], *, world: int, folder: Path, hold_writes_of: int | None = None
) -> list[subprocess.Popen[bytes]]:
    """The workers' processes. Run k keeps its checkpoints and its export below `folder`/k.

    Args:
        hold_writes_of: a step whose checkpoint never comes to its end: each file stops after its first bytes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "configs.json").write_text(json.dumps([to_tree(config) for config in configs]))
    (folder / "store").unlink(missing_ok=True)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return [
        subprocess.Popen(
            [sys.executable, "-m", "tests.training.group", str(folder), str(rank), str(world)]
            + ([] if hold_writes_of is None else [str(hold_writes_of)]),
            env=environment,
            cwd=ROOT,
            stdout=(folder / f"rank{rank}.log").open("wb"),
            stderr=subprocess.STDOUT,
        )
        for rank in range(world)
    ]


def run_group(
    configs: Sequence[TrainConfig], *, world: int, folder: Path
) -> list[list[StepMetrics]]:
    """The steps of each run."""
    workers = start_group(configs, world=world, folder=folder)
    try:
        codes = [worker.wait() for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    for rank, code in enumerate(codes):
        assert code == 0, (code, (folder / f"rank{rank}.log").read_text()[-4000:])
    return [read_steps(folder / str(index)) for index in range(len(configs))]


def read_steps(folder: Path) -> list[StepMetrics]:
    """The last word on each step of a run that was perhaps started more than once."""
    lines = (folder / "steps.jsonl").read_text().splitlines()
    steps = {step["step"]: step for step in map(json.loads, lines)}
    return [steps[number] for number in sorted(steps)]


def work(folder: Path, rank: int, world: int) -> None:
    import torch
    import torch.distributed as dist

    from safemirage.training.loop import train

    torch.set_num_threads(1)
    os.environ["LOCAL_RANK"] = str(rank)
    if world > 1:
        store = dist.FileStore(str(folder / "store"), world)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=world)
    for index, tree in enumerate(json.loads((folder / "configs.json").read_text())):
        place = folder / str(index)
        place.mkdir(exist_ok=True)

        def report(report: Report, file: Path = place / "steps.jsonl") -> None:
            if rank == 0:
                with file.open("a") as stream:
                    stream.writelines(json.dumps(step) + "\n" for step in report.steps)

        job = TrainJob(
            config=build_config(TrainConfig, tree),
            run_id="grouped",
            identity="0",
            export=place / "export",
            cache=folder / "cache",
            checkpoints=place / "checkpoints",
        )
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        summary = train(job, report=report)
        if rank == 0:
            (place / "resumed_from").write_text(str(summary.resumed_from))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        (place / f"peak-bytes-{rank}").write_text(f"{before} {peak}")
    if world > 1:
        # A process that exits with its group open may be aborted by gloo's threads.
        dist.barrier()
        dist.destroy_process_group()


def hold_writes(step: int) -> None:
    from safemirage.training.saving import checkpoint

    write = checkpoint._HashingFile.write

    def held(file: checkpoint._HashingFile, data: bytes) -> int:
        written = write(file, data)
        while f"{step:08d}" in file._stream.name:
            time.sleep(1)
        return written

    checkpoint._HashingFile.write = held  # type: ignore[method-assign]


if __name__ == "__main__":
    if len(sys.argv) > 4:
        hold_writes(int(sys.argv[4]))
    work(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
