"""Models of a published size without their weights: config.json, and safetensors files of which only the header is real."""

import json
import struct
from pathlib import Path

import torch
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
)

from safemirage.models.families import LLAVA

_WIDTHS = {7: (4096, 11008, 32, 32), 13: (5120, 13824, 40, 40)}
"""Hidden size, intermediate size, layers and heads of LLaVA-1.5."""


def write_empty_llava(folder: Path, *, billions: int = 7) -> Path:
    hidden, intermediate, layers, heads = _WIDTHS[billions]
    text = LlamaConfig(
        vocab_size=32064,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
    )
    vision = CLIPVisionConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        image_size=336,
        patch_size=14,
        projection_dim=768,
    )
    config = LlavaConfig(text_config=text, vision_config=vision, image_seq_length=576)
    config.save_pretrained(folder)
    with torch.device("meta"):
        model = LlavaForConditionalGeneration(config)
    header, place = {}, 0
    for name, parameter in model.named_parameters():
        end = place + 2 * parameter.numel()
        header[LLAVA.hub_name(name)] = {
            "dtype": "F16",
            "shape": list(parameter.shape),
            "data_offsets": [place, end],
        }
        place = end
    text_header = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as stream:
        stream.write(struct.pack("<Q", len(text_header)) + text_header)
        stream.truncate(stream.tell() + place)  # a hole: takes no room on the disk
    return folder
