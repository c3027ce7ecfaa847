"""How many trials fit a cluster, counted by hand."""

import pytest

from ray_jobs.cluster.capacity import MOST_DRIVERS, CapacityError, concurrent_trials
from safemirage.config.train import WorkersConfig

HEAD = {"CPU": 2.0, "GPU": 0.0, "memory": 1e9, "node:127.0.0.1": 1.0}


@pytest.mark.parametrize(
    ("nodes", "workers", "wanted", "expected"),
    [
        ([HEAD], WorkersConfig(count=1), None, 2),
        ([HEAD], WorkersConfig(count=2), None, 1),
        ([HEAD], WorkersConfig(count=1, cpus=0.1), None, MOST_DRIVERS),
        ([HEAD], WorkersConfig(count=1, cpus=0.1), 18, 18),
        ([HEAD], WorkersConfig(count=1), 1, 1),
        ([HEAD, {"CPU": 8.0, "GPU": 4.0}], WorkersConfig(count=2, gpu=True), None, 2),
        ([HEAD, {"CPU": 3.0, "GPU": 4.0}], WorkersConfig(count=2, gpu=True, cpus=2), 5, None),
        (
            [{"CPU": 3.0}, {"CPU": 3.0}],
            WorkersConfig(count=1, cpus=2),
            None,
            2,
        ),
    ],
)
def test_capacity_counts_whole_worker_groups_of_whole_workers(
    nodes: list[dict[str, float]], workers: WorkersConfig, wanted: int | None, expected: int | None
) -> None:
    if expected is None:
        with pytest.raises(CapacityError):
            concurrent_trials(nodes, workers, wanted=wanted)
    else:
        assert concurrent_trials(nodes, workers, wanted=wanted) == expected


def test_capacity_too_small_gives_need_and_supply() -> None:
    with pytest.raises(CapacityError) as caught:
        concurrent_trials([HEAD], WorkersConfig(count=8, gpu=True, cpus=4), wanted=None)
    message = str(caught.value)
    assert "8 worker(s) with CPU 4, GPU 1 each" in message
    assert "1 node(s) with CPU 2, GPU 0" in message
    assert "workers.count" in message


def test_capacity_of_ten_tenths_of_a_cpu_is_ten() -> None:
    assert concurrent_trials([{"CPU": 1.0}], WorkersConfig(cpus=0.1), wanted=None) == 10
