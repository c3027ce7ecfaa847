"""The config tree: frozen dataclasses, one module a branch, read by `load_config`. Imports no torch and no ray.

Begin with `train.py` and `evaluate.py`, the trees of the two main commands; `types.py` has what all branches share,
`loading` reads files.
"""

from safemirage.config.loading.load import ConfigError, load_config

__all__ = ["ConfigError", "load_config"]
