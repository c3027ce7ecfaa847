"""Builds a method from its config: the one place that names them all. `method.py` says what a method is."""

from typing import assert_never

from safemirage.config.method import (
    DPOConfig,
    GradientAscentConfig,
    GradientDifferenceConfig,
    IDKConfig,
    MethodConfig,
    NPOConfig,
    RMUConfig,
    SFTConfig,
    SimNPOConfig,
)
from safemirage.methods.dpo import DPO
from safemirage.methods.gradient_ascent import GradientAscent
from safemirage.methods.idk import IDK
from safemirage.methods.method import Method
from safemirage.methods.npo import NPO
from safemirage.methods.rmu import RMU
from safemirage.methods.sft import SFT
from safemirage.methods.simnpo import SimNPO


def build_method(config: MethodConfig) -> Method:
    match config:
        case SFTConfig():
            return SFT(config)
        case GradientAscentConfig() | GradientDifferenceConfig():
            return GradientAscent(config)
        case NPOConfig():
            return NPO(config)
        case SimNPOConfig():
            return SimNPO(config)
        case DPOConfig():
            return DPO(config)
        case IDKConfig():
            return IDK(config)
        case RMUConfig():
            return RMU(config)
        case _:
            assert_never(config)
