"""The config tree: frozen dataclasses, one module a branch, read by `load_config`. Imports no torch and no ray."""

from safemirage.config.loading.load import ConfigError, load_config

__all__ = ["ConfigError", "load_config"]
