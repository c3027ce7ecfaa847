"""Joining a cluster, and what every process of a job gets of the environment of its driver."""

import os
from typing import Any

from safemirage.settings import Settings, submitted_environment


def runtime_env(settings: Settings) -> dict[str, Any] | None:
    """For `ray.init`: Ray gives a process the environment of its node, and of the driver's only what is named here.

    Nothing secret may be in it: Ray shows it in its dashboard and logs. What a submitted job was given goes to all of its
    processes anyway, and Ray refuses to be told it twice.
    """
    given = submitted_environment(os.environ).get("env_vars") or {}
    variables = {name: value for name, value in settings.variables.items() if name not in given}
    return {"env_vars": variables} if variables else None


def address() -> str:
    """For `ray.init`, which without one would join the cluster last started on this machine, dead or another's."""
    return os.environ.get("RAY_ADDRESS") or "local"


def connect(settings: Settings) -> None:
    """Joins the cluster of RAY_ADDRESS, else starts one for this process."""
    import ray  # on use: jobs check their configs first, and an evaluation may run without Ray

    # The controller looks after its workers, and takes their reports, this often.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    if not ray.is_initialized():
        ray.init(
            address=address(),
            runtime_env=runtime_env(settings),
            logging_level="warning",
        )
