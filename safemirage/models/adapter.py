"""Low-rank adapters: put on a model to be trained, or taken at part of their strength."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from peft import LoraConfig as PeftLoraConfig
from peft import PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from peft.utils import ModulesToSaveWrapper
from torch import nn
from transformers import PreTrainedModel

from safemirage.config.model import LoraConfig
from safemirage.models.families import Family


@contextmanager
def gathered(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Runs its body with parameters whole that ZeRO-3 has parted; others are so anyhow. Collective.

    The calls are those that DeepSpeed gives each parameter that it parts, as it has them in 0.19.8.
    """
    parted: list[Any] = [p for p in parameters if hasattr(p, "ds_id")]
    if parted:
        parted[0].all_gather(param_list=parted)
    try:
        yield
    finally:
        if parted:
            parted[0].partition(param_list=parted)


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
    # PEFT copies the projector, which ZeRO-3 may have parted already: it is made whole for that moment.
    parted = [p for n, p in model.named_parameters() if n.startswith(f"{family.projector}.")]
    with gathered(parted):
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
