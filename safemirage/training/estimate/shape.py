"""The shape of a model that a config names, from its config.json alone: it is built without memory for its weights."""

import re
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForImageTextToText

from safemirage.config.loading.identity import is_local
from safemirage.config.method import RMUConfig
from safemirage.config.model import LoraConfig
from safemirage.config.train import TrainConfig
from safemirage.models.families import Family, family_of
from safemirage.models.loading import trainable_names
from safemirage.models.manifest import ExportError, is_adapter, read_manifest
from safemirage.training.estimate.memory import ModelShape


def read_shape(config: TrainConfig) -> ModelShape:
    """What the memory estimate needs to know.

    Raises:
        ConfigError: a `trainable` pattern fits no parameter.
    """
    model = _model_without_weights(config.model.path, config.model.revision)
    family = family_of(model.config)
    numbers = {name: parameter.numel() for name, parameter in model.named_parameters()}
    lora = config.model.lora
    if lora is not None:
        trained = {f"{family.layers}.0.adapter": _adapter_numbers(model, family, lora)}
        if lora.train_projector:
            saved = {n: k for n, k in numbers.items() if n.startswith(f"{family.projector}.")}
            trained |= {f"{name}.saved": number for name, number in saved.items()}
        parameters = sum(numbers.values()) + sum(trained.values())
    else:
        chosen = trainable_names(list(numbers), family, config.model.trainable)
        trained = {name: numbers[name] for name in chosen}
        parameters = sum(numbers.values())
    text = model.config.get_text_config()
    head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return ModelShape(
        parameters=parameters,
        trained=sum(trained.values()),
        copied=0 if lora is not None else _copied(config, family, trained),
        hidden=text.hidden_size,
        intermediate=text.intermediate_size,
        attention=head * (text.num_attention_heads + 2 * text.num_key_value_heads),
        layers=text.num_hidden_layers - _first_layer(family, trained, text.num_hidden_layers),
        image_tokens=int(getattr(model.config, "image_seq_length", None) or 0),
    )


def _model_without_weights(path: str, revision: str) -> Any:
    folder = Path(path).expanduser()
    if folder.is_dir() and is_adapter(folder):
        base = read_manifest(folder).base
        if base is None:
            raise ExportError(f"{folder}: an adapter whose manifest names no base model")
        return _model_without_weights(base.path, base.revision)
    where = str(folder) if is_local(path) or folder.exists() else path
    config = AutoConfig.from_pretrained(where, revision=revision)
    with torch.device("meta"):
        return AutoModelForImageTextToText.from_config(config)


def _adapter_numbers(model: nn.Module, family: Family, lora: LoraConfig) -> int:
    """Numbers in the two factors of every linear layer of the language model."""
    return sum(
        lora.rank * (module.in_features + module.out_features)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name.startswith(f"{family.language}.")
    )


def _copied(config: TrainConfig, family: Family, trained: dict[str, int]) -> int:
    """The reference beside the policy: KL needs every trained tensor, RMU those before its hook layer's output."""
    if config.method.kl_weight > 0:
        return sum(trained.values())
    if not isinstance(config.method, RMUConfig):
        return 0
    hook = config.method.hook_layer
    return sum(
        number
        for name, number in trained.items()
        if ((layer := _layer_of(name, family)) is None and not _is_after(name, family))
        or (layer is not None and layer <= hook)
    )


def _is_after(name: str, family: Family) -> bool:
    """Whether a tensor outside the layers comes after them: the final norm and the output layer."""
    return name.startswith((f"{family.head}.", f"{family.language}.norm."))


def _first_layer(family: Family, trained: dict[str, int], num_layers: int) -> int:
    """The first decoder layer that a gradient reaches; `num_layers` where only what comes after them is trained."""
    before = [n for n in trained if _layer_of(n, family) is None and not _is_after(n, family)]
    if before:
        return 0
    layers = [layer for n in trained if (layer := _layer_of(n, family)) is not None]
    return min(layers, default=num_layers)


def _layer_of(name: str, family: Family) -> int | None:
    found = re.match(rf"{re.escape(family.layers)}\.(\d+)\.", name)
    return int(found.group(1)) if found else None
