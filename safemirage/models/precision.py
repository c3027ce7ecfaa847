"""Number formats: which a device multiplies matrices in, and which a model's weights are stored in."""

from pathlib import Path

import torch
from safetensors import safe_open

_NAMES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}


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
