"""The nodes of the connected cluster as their resources: what they have, what of it is free, and what may still come."""

import sys
from collections.abc import Iterator, Mapping
from typing import Any

import ray
from ray._private.state import state  # read in Ray 2.60: see free_resources and _announced

from ray_jobs.cluster.capacity import fitting, shown

Resources = dict[str, float]
_UNBOUNDED = 1024
"""Nodes counted of a type that an autoscaler may add without a bound."""
_NODE_GROUP = "ray.io/node-group"
"""Label of the nodes that an autoscaler started."""
_UNKNOWN: Resources = {"CPU": 1e6, "GPU": 1e6}
"""A node that an autoscaler might add, of which nothing is known."""


def alive_nodes() -> list[Mapping[str, Any]]:
    """Ray's own records of the nodes that are alive."""
    return [node for node in ray.nodes() if node["Alive"]]


def free_resources() -> list[Resources]:
    """The resources of each node that nobody holds now. Ray's public call gives their sum over the cluster alone."""
    return [dict(node) for node in state.available_resources_per_node().values()]


def possible_resources() -> list[Resources]:
    """What the cluster can come to: the nodes that are alive, or as many of each type as an autoscaler may start. Where
    an autoscaler has not told Ray of its types, anything may come, so nothing is refused for its size."""
    if announced := list(_announced()):
        return announced
    nodes = alive_nodes()
    autoscaled = any(_NODE_GROUP in node["Labels"] for node in nodes)
    return [*(dict(node["Resources"]) for node in nodes), *([_UNKNOWN] if autoscaled else [])]


def _announced() -> Iterator[Resources]:
    """Nodes by the types that an autoscaler told Ray of; none where there is no autoscaler, or it tells nothing."""
    config = state.get_cluster_config()
    for group in config.node_group_configs if config is not None else ():
        count = _UNBOUNDED if group.max_count < 0 else min(group.max_count, _UNBOUNDED)
        for _ in range(count):
            yield {name: float(amount) for name, amount in group.resources.items()}


def say_if_busy(who: str, each: Mapping[str, float], *, count: int) -> None:
    """Prints what `who` will wait for where others hold it now: `count` processes with `each` of them. Ray gives it to
    them when it comes free."""
    free = free_resources()
    if sum(fitting(node, each) for node in free) < count:
        print(
            f"{who}: waits for {count} x {shown(each)}; free now: {'; '.join(map(shown, free)) or 'no node'}",
            file=sys.stderr,
            flush=True,
        )
