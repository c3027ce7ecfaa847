"""How many trials fit a cluster, counted by hand."""

import pytest

from ray_jobs.capacity import CapacityError, concurrent_trials
from safemirage.config.train import WorkersConfig

HEAD = {"CPU": 2.0, "train_driver": 4.0, "memory": 1e9, "node:127.0.0.1": 1.0}


@pytest.mark.parametrize(
    ("nodes", "workers", "wanted", "expected"),
    [
        ([HEAD], WorkersConfig(count=1), None, 2),
        ([HEAD], WorkersConfig(count=2), None, 1),
        ([HEAD], WorkersConfig(count=1, cpus=0.1), None, 4),
        ([HEAD], WorkersConfig(count=1), 1, 1),
        ([HEAD, {"CPU": 8.0, "GPU": 4.0}], WorkersConfig(count=2, gpu=True), None, 2),
        ([HEAD, {"CPU": 3.0, "GPU": 4.0}], WorkersConfig(count=2, gpu=True, cpus=2), 5, None),
        (
            [{"CPU": 3.0, "train_driver": 9.0}, {"CPU": 3.0}],
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


def test_capacity_without_the_drivers_resource_says_how_to_start_ray() -> None:
    with pytest.raises(CapacityError, match="--resources=") as caught:
        concurrent_trials([{"CPU": 64.0}], WorkersConfig(), wanted=None)
    assert "CPU 64" in str(caught.value)


def test_capacity_too_small_gives_need_and_supply() -> None:
    with pytest.raises(CapacityError) as caught:
        concurrent_trials([HEAD], WorkersConfig(count=8, gpu=True, cpus=4), wanted=None)
    message = str(caught.value)
    assert "8 worker(s) with CPU 4, GPU 1 each" in message
    assert "1 node(s) with CPU 2, GPU 0, train_driver 4" in message
    assert "workers.count" in message


def test_capacity_of_ten_tenths_of_a_cpu_is_ten() -> None:
    node = {"CPU": 1.0, "train_driver": 20.0}
    assert concurrent_trials([node], WorkersConfig(cpus=0.1), wanted=None) == 10
