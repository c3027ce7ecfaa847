"""From a method's config to the method: the one switch."""

from typing import assert_never

from safemirage.config.method import MethodConfig, NPOConfig, RMUConfig, SFTConfig
from safemirage.methods.method import Method
from safemirage.methods.npo import NPO
from safemirage.methods.rmu import RMU
from safemirage.methods.sft import SFT


def build_method(config: MethodConfig) -> Method:
    match config:
        case SFTConfig():
            return SFT(config)
        case NPOConfig():
            return NPO(config)
        case RMUConfig():
            return RMU(config)
        case _:
            assert_never(config)
