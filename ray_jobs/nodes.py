"""The nodes of the connected cluster as their resources: what they have, what of it is free, and what may still come."""

from collections.abc import Iterator, Mapping
from typing import Any

import ray
from ray._private.state import state

Resources = dict[str, float]
_UNBOUNDED = 1024
"""Nodes counted of a type that an autoscaler may add without a bound."""


def alive_nodes() -> list[Mapping[str, Any]]:
    """Ray's own records of the nodes that are alive."""
    return [node for node in ray.nodes() if node["Alive"]]


def total_resources() -> list[Resources]:
    """All that each node that is alive has."""
    return [dict(node["Resources"]) for node in alive_nodes()]


def free_resources() -> list[Resources]:
    """What of it nobody holds now."""
    return [dict(node) for node in state.available_resources_per_node().values()]


def possible_resources() -> list[Resources]:
    """What the cluster can come to: the nodes that are alive, or as many of each type as an autoscaler may start."""
    announced = list(_announced())
    return announced if announced else total_resources()


def _announced() -> Iterator[Resources]:
    """Nodes by the types that an autoscaler told Ray of; none where there is no autoscaler, or it tells nothing."""
    config = state.get_cluster_config()
    for group in config.node_group_configs if config is not None else ():
        count = _UNBOUNDED if group.max_count < 0 else group.max_count
        for _ in range(min(count, _UNBOUNDED)):
            yield {name: float(amount) for name, amount in group.resources.items()}
