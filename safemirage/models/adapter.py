"""Low-rank adapters: put on a model to be trained, or taken at part of their strength."""

import re
from collections.abc import Sequence

import torch
from peft import LoraConfig as PeftLoraConfig
from peft import PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from peft.utils import ModulesToSaveWrapper
from torch import nn
from transformers import PreTrainedModel

from safemirage.config.model import LoraConfig
from safemirage.models.families import Family


def with_adapters(
    model: PreTrainedModel, family: Family, lora: LoraConfig, *, base: str
) -> PeftModel:
    model.name_or_path = base
    leaves = sorted(
        {
            name.rpartition(".")[2]
            for name, module in model.named_modules()
            if isinstance(module, nn.Linear) and name.startswith(f"{family.language}.")
        }
    )
    config = PeftLoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        bias="none",
        target_modules=lora_targets(family, leaves),
        # As part of the adapter the original projector stays at hand: the adapter switched off is the base.
        modules_to_save=[family.projector] if lora.train_projector else None,
    )
    return get_peft_model(model, config)


def lora_targets(family: Family, leaves: Sequence[str]) -> str:
    """The pattern of PEFT's `target_modules`: layers of the language model whose last name is one of `leaves`."""
    return rf"{re.escape(family.language)}\..*\.({'|'.join(map(re.escape, leaves))})"


def scale_adapter(model: PeftModel, scale: float) -> None:
    """Moves every weight that the adapter changes to base + scale (trained - base), in place; then merge it.

    LoRA's product is scaled. What was trained in full beside it (a projector, `modules_to_save`) is interpolated, so
    that scale 0 is the base and 1 the adapter as it was trained.
    """
    for module in model.modules():
        if isinstance(module, LoraLayer):
            module.scale_layer(scale)
        elif isinstance(module, ModulesToSaveWrapper):
            _interpolate(module, scale)


@torch.no_grad()
def _interpolate(module: ModulesToSaveWrapper, scale: float) -> None:
    trained = module.modules_to_save[module.active_adapters[0]]
    base = dict(module.original_module.named_parameters())
    for name, parameter in trained.named_parameters():
        parameter.copy_(torch.lerp(base[name].to(parameter.dtype), parameter, scale))
