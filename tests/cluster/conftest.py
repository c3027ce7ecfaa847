"""One Ray cluster for all tests of this folder; each test keeps its own storage."""

import os
from collections.abc import Iterator

import pytest

from ray_jobs.cluster.head import ClusterAddress, local_cluster
from tests.kinds import kind

pytest_ignore_collect, pytest_collection_modifyitems = kind(__file__, "ray")

# Ray reads it once, when a test module first imports it; the token's file may come later.
os.environ.setdefault("RAY_AUTH_MODE", "token")


@pytest.fixture(scope="session")
def cluster() -> Iterator[ClusterAddress]:
    """A running head. Jobs and subprocesses join it through `cluster.environment`."""
    with local_cluster(num_cpus=4) as address:
        yield address


@pytest.fixture(scope="module")
def ray_driver(cluster: ClusterAddress) -> Iterator[ClusterAddress]:
    """This process as a driver of the cluster."""
    import ray

    before = dict(os.environ)
    os.environ.update(cluster.environment)
    ray.init(address=cluster.gcs, log_to_driver=True, logging_level="warning")
    yield cluster
    ray.shutdown()
    for name in cluster.environment:
        os.environ.pop(name, None)
        if name in before:
            os.environ[name] = before[name]
