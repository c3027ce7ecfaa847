"""Small random members of families that call their decoder in other ways than LLaVA, with a batch for each."""

from dataclasses import replace

import torch
from transformers import (
    PreTrainedModel,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

from safemirage.methods.method import Batch
from tests.methods.batches import make_batch
from tests.tiny import IMAGE_TOKENS, build_tiny_llava

IMAGE, VISION_START = 4, 5
_TEXT = {
    "vocab_size": 261,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
}
_TOKENS = {"image_token_id": IMAGE, "video_token_id": 6, "vision_start_token_id": VISION_START}
# 8 x 8 patches, four of which make one image token.
_GRID = (1, 8, 8)
_PATCH = {"patch_size": 4, "temporal_patch_size": 2, "spatial_merge_size": 2}


def build_family(name: str) -> PreTrainedModel:
    """Four decoder layers, float32; the vision tower and its projector have some layers too."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        match name:
            case "llava":
                return build_tiny_llava(0, num_layers=4).model
            case "qwen2_5_vl":
                return Qwen2_5_VLForConditionalGeneration(_qwen2_5_vl())
            case "qwen3_vl":
                return Qwen3VLForConditionalGeneration(_qwen3_vl())
            case _:
                raise ValueError(name)


def family_batch(name: str) -> Batch:
    """Two samples of unlike length, padded on the right."""
    batch = make_batch([3, 6], [5, 2], seed=1)
    if name == "llava":
        return batch
    ids_BT = batch.inputs["input_ids"].clone()
    ids_BT[:, IMAGE_TOKENS] = 11
    generator = torch.Generator().manual_seed(3)
    num_patches = 2 * _GRID[1] * _GRID[2]
    inputs = {
        "input_ids": ids_BT,
        "attention_mask": batch.inputs["attention_mask"],
        "pixel_values": torch.randn(num_patches, 3 * 2 * 4 * 4, generator=generator),
        "image_grid_thw": torch.tensor([_GRID, _GRID]),
        "mm_token_type_ids": (ids_BT == IMAGE).long(),
    }
    return replace(batch, inputs=inputs)


def _qwen2_5_vl() -> Qwen2_5_VLConfig:
    vision = {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_heads": 2,
        "out_hidden_size": 64,
        "window_size": 16,
        "fullatt_block_indexes": [1],
        **_PATCH,
    }
    rope = {"rope_type": "default", "mrope_section": [4, 6, 6], "rope_theta": 10_000.0}
    # Sliding windows in the upper layers only: a view that starts in the middle must ask for its own layers' kind.
    window = {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 2}
    text = {**_TEXT, **window, "rope_parameters": rope}
    return Qwen2_5_VLConfig(vision_config=vision, text_config=text, **_TOKENS)


def _qwen3_vl() -> Qwen3VLConfig:
    vision = {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_heads": 2,
        "out_hidden_size": 64,
        "num_position_embeddings": 64,
        "deepstack_visual_indexes": [0, 1],
        **_PATCH,
    }
    rope = {"rope_type": "default", "mrope_section": [6, 5, 5], "rope_theta": 10_000.0}
    text = {**_TEXT, "head_dim": 32, "rope_parameters": rope}
    return Qwen3VLConfig(vision_config=vision, text_config=text, **_TOKENS)
