"""`safemirage job-env`: what a submitted job must be given of this shell."""

import sys


def job_env() -> None:
    """Print the runtime environment that makes a job work with this shell's settings; of secrets, nothing.

    ray job submit --working-dir . --runtime-env-json "$(safemirage job-env)" -- ...
    """
    import json

    from safemirage.settings import read_settings

    json.dump({"env_vars": read_settings().job_variables()}, sys.stdout)
    sys.stdout.write("\n")
