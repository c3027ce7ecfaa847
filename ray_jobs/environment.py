"""What every process of a job gets of the environment of its driver."""

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
