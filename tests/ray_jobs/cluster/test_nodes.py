"""What a cluster can come to, by the nodes that it has and by what an autoscaler told Ray."""

from typing import Any

import pytest
from ray.core.generated.autoscaler_pb2 import ClusterConfig, NodeGroupConfig

from ray_jobs.cluster.nodes import possible_resources

HEAD: dict[str, Any] = {"Alive": True, "Resources": {"CPU": 4.0}, "Labels": {"ray.io/node-id": "a"}}
DEAD: dict[str, Any] = {**HEAD, "Alive": False}


@pytest.fixture(autouse=True)
def no_autoscaler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray_jobs.cluster.nodes.state.get_cluster_config", lambda: None)


def test_nodes_of_a_cluster_that_stays_as_it_is_are_those_alive(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ray.nodes", lambda: [HEAD, DEAD])
    assert possible_resources() == [{"CPU": 4.0}]


def test_nodes_that_an_autoscaler_may_start_count_by_their_types(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    head = NodeGroupConfig(resources={"CPU": 4}, min_count=1, max_count=1)
    gpus = NodeGroupConfig(resources={"CPU": 16, "GPU": 8}, min_count=0, max_count=2)
    config = ClusterConfig(node_group_configs=[head, gpus])
    monkeypatch.setattr("ray.nodes", lambda: [HEAD])
    monkeypatch.setattr("ray_jobs.cluster.nodes.state.get_cluster_config", lambda: config)
    assert possible_resources() == [{"CPU": 4.0}, *[{"CPU": 16.0, "GPU": 8.0}] * 2]


def test_nodes_of_an_autoscaler_that_tells_nothing_may_be_of_any_size(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scaled = {**HEAD, "Labels": {"ray.io/node-group": "headgroup"}}
    monkeypatch.setattr("ray.nodes", lambda: [scaled])
    known, unknown = possible_resources()
    assert known == {"CPU": 4.0}
    assert unknown["GPU"] > 1000
