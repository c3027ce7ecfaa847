"""What every process of a job gets of the environment of its driver."""

from typing import Any

from safemirage.settings import Settings


def runtime_env(settings: Settings) -> dict[str, Any] | None:
    """For `ray.init`: Ray gives a process the environment of its node, and of the driver's only what is named here.

    Nothing secret may be in it: Ray shows it in its dashboard and logs.
    """
    return {"env_vars": dict(settings.variables)} if settings.variables else None
