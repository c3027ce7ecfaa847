"""Number formats: which a device multiplies in, which weights are stored in, and quantised weights.

Weights are quantised by rounding of our own, which needs nothing, or by bitsandbytes, which needs CUDA.

Only the linear layers of the language model are quantised: vision tower, projector, embeddings and output layer stay as
they are, as in the usual 4-bit checkpoints of vision-language models.
"""

import importlib.util
from importlib.metadata import version
from pathlib import Path
from typing import Any, assert_never

import torch
from safetensors import safe_open
from torch import Tensor, nn

from safemirage.config.loading.load import ConfigError
from safemirage.config.weights import (
    BitsAndBytesConfig,
    QuantisationConfig,
    RoundToNearestConfig,
)
from safemirage.models.families import Family

_PACKAGE = "bitsandbytes"
_KEY = "model.weights.quantisation"
_NAMES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}


def quantise(model: nn.Module, family: Family, config: QuantisationConfig, device: str) -> str:
    """Quantises the model in place, which lies on the CPU; the name of what was done, for the sample store's keys.

    bitsandbytes packs the weights when the model is moved to the GPU.

    Raises:
        ConfigError: this machine cannot do it, or a layer does not divide into groups.
    """
    match config:
        case RoundToNearestConfig():
            for name, layer in _layers(model, family):
                _round_layer(name, layer, config)
            return config.title
        case BitsAndBytesConfig():
            require_quantisation(config, device)
            for name, layer in _layers(model, family):
                parent, _, leaf = name.rpartition(".")
                setattr(model.get_submodule(parent), leaf, _packed(layer, config))
            return f"{config.title} {version(_PACKAGE)}"
        case _:
            assert_never(config)


def require_quantisation(config: QuantisationConfig, device: str) -> None:
    """Raises ConfigError where this machine cannot quantise so, and says all that is missing."""
    if isinstance(config, RoundToNearestConfig):
        return
    missing = []
    if not device.startswith("cuda"):
        missing.append(f"model.device is {device!r}, and it needs cuda")
    elif not torch.cuda.is_available():
        missing.append("this machine has no CUDA")
    if importlib.util.find_spec(_PACKAGE) is None:
        missing.append("the package is not installed: pip install bitsandbytes")
    if missing:
        raise ConfigError(
            f"{_KEY}: {config.title!r} cannot be used here: {'; '.join(missing)}. "
            "{name: round_to_nearest, bits: 4} runs everywhere"
        )


@torch.no_grad()
def round_to_nearest(weight_OI: Tensor, *, bits: int, group_size: int | None = None) -> Tensor:
    """The weights as `bits`-bit integers would hold them, in their own dtype; shape (out, in), as is the result.

    w' = s clamp(round(w / s), -q, q) with q = 2^(bits-1) - 1 and s = max|w| / q over each output channel, or over each
    `group_size` consecutive weights of one: symmetric, halves to even. It is the round-to-nearest baseline of AWQ (Lin
    et al. 2023, eq. 1; 2^(bits-1) there, so that the largest weight is clipped), under which Zhang et al. 2024
    (2410.16454) found unlearned knowledge come back. Computed in float32, deterministic on every device.

    Raises:
        ValueError: the channels do not divide into groups.
    """
    out, width = weight_OI.shape
    size = width if group_size is None else group_size
    if width % size:
        raise ValueError(f"channels of {width} weights do not divide into groups of {size}")
    largest = 2 ** (bits - 1) - 1
    groups = weight_OI.float().reshape(out, width // size, size)
    scale = groups.abs().amax(dim=-1, keepdim=True) / largest
    # A group of zeros has scale 0 and stays zero.
    rounded = (groups / scale.clamp_min(torch.finfo(torch.float32).tiny)).round()
    return (rounded.clamp(-largest, largest) * scale).reshape(out, width).to(weight_OI.dtype)


def _layers(model: nn.Module, family: Family) -> list[tuple[str, nn.Linear]]:
    return [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name.startswith(f"{family.language}.")
    ]


def _round_layer(name: str, layer: nn.Linear, config: RoundToNearestConfig) -> None:
    try:
        rounded = round_to_nearest(layer.weight, bits=config.bits, group_size=config.group_size)
    except ValueError as error:
        raise ConfigError(
            f"{_KEY}.group_size: {config.group_size!r} does not fit {name}: {error}; take a divisor of "
            f"{layer.in_features}, or leave it out"
        ) from error
    layer.weight.data = rounded


def _packed(layer: nn.Linear, config: BitsAndBytesConfig) -> nn.Module:
    """The layer as bitsandbytes has it, with the weights still to be packed."""
    import bitsandbytes

    size = {"bias": layer.bias is not None, "device": "meta"}
    new: Any
    if config.kind == "nf4":
        new = bitsandbytes.nn.Linear4bit(
            layer.in_features,
            layer.out_features,
            compute_dtype=layer.weight.dtype,
            quant_type="nf4",
            **size,
        )
        new.weight = bitsandbytes.nn.Params4bit(
            layer.weight.data, requires_grad=False, quant_type="nf4"
        )
    else:
        new = bitsandbytes.nn.Linear8bitLt(
            layer.in_features, layer.out_features, has_fp16_weights=False, threshold=6.0, **size
        )
        new.weight = bitsandbytes.nn.Int8Params(
            layer.weight.data, requires_grad=False, has_fp16_weights=False
        )
    if layer.bias is not None:
        new.bias = nn.Parameter(layer.bias.data, requires_grad=False)
    return new


def multiplies(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether products in `dtype` run on the device's own units.

    A CPU without AVX-512 has none for half precision: PyTorch then converts number by number, and a product of
    bfloat16 takes 2 (one row) to 6 times (many rows) as long as one of float32.
    """
    if device.type != "cpu" or dtype == torch.float32:
        return True
    # PyTorch 2.13 has no public call for it: torch.cpu.get_capabilities names instructions, not what oneDNN needs.
    if dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return dtype == torch.float16 and bool(torch.ops.mkldnn._is_mkldnn_fp16_supported())


def stored_dtypes(folder: Path) -> set[str]:
    """The number formats of the tensors in a folder's safetensors files, from their headers."""
    found = set()
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            stored = {file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
        found |= {_NAMES.get(name, name) for name in stored}
    return found
