"""What the training benchmark runs on: a LLaVA of a fixed shape with random weights, and batches of random tokens.

A sample has 576 image tokens and 64 of text, of which the last 32 are supervised, as a 336-pixel image and a short
answer have in LLaVA-1.5. No sample is padded, so that the original's mean over all positions counts the same ones.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
)

from safemirage.methods.method import Batch
from safemirage.models.families import LLAVA

PATCHES = 24
IMAGE_TOKENS = PATCHES**2
TEXT_TOKENS = 64
SUPERVISED = 32
IMAGE, PAD = 4, 3


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Sizes of the model and of a step."""

    name: str
    layers: int
    hidden: int
    intermediate: int
    heads: int
    vocabulary: int
    vision_layers: int
    vision_hidden: int
    vision_heads: int
    patch_pixels: int
    lora_rank: int
    batch: int
    """Samples of each set in a step."""
    dtype: torch.dtype = torch.float32

    @property
    def hook(self) -> int:
        """The hook layer: the last of the first quarter, where 7 lies in 32."""
        return self.layers // 4 - 1

    @property
    def down_proj(self) -> str:
        """The pattern of what RMU trains: down_proj of the hook layer and the two below it."""
        numbers = "|".join(str(number) for number in range(self.hook - 2, self.hook + 1))
        return rf"{{language}}\.layers\.({numbers})\.mlp\.down_proj"


SMALL = Shape(
    name="small",
    layers=32,
    hidden=256,
    intermediate=688,
    heads=4,
    vocabulary=2048,
    vision_layers=3,
    vision_hidden=128,
    vision_heads=2,
    patch_pixels=4,
    lora_rank=8,
    batch=1,
)
"""The 7B's ratios: intermediate to hidden 2.69, LoRA rank to hidden 1 / 32; its depth, so that the three layers that RMU trains are as
small a part of it; an output layer of 1.4 % of a forward's products. Attention is a third of the time, where the 7B has 3 % of its products
in it: a width that changes that makes a step too long for two cores."""

SEVEN_B = Shape(
    name="7B",
    layers=32,
    hidden=4096,
    intermediate=11008,
    heads=32,
    vocabulary=32064,
    vision_layers=24,
    vision_hidden=1024,
    vision_heads=16,
    patch_pixels=14,
    lora_rank=128,
    batch=1,
    dtype=torch.bfloat16,
)
"""LLaVA-1.5-7B."""


def build_model(shape: Shape, device: torch.device) -> LlavaForConditionalGeneration:
    """The same random weights each time, on `device`."""
    vision = CLIPVisionConfig(
        hidden_size=shape.vision_hidden,
        intermediate_size=4 * shape.vision_hidden,
        num_hidden_layers=shape.vision_layers,
        num_attention_heads=shape.vision_heads,
        image_size=PATCHES * shape.patch_pixels,
        patch_size=shape.patch_pixels,
    )
    text = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        max_position_embeddings=1024,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=PAD,
        use_cache=False,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=IMAGE,
        image_seq_length=IMAGE_TOKENS,
        pad_token_id=PAD,
        dtype=shape.dtype,
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    with device:
        model = LlavaForConditionalGeneration._from_config(config)
    return model.to(shape.dtype)


def head_share(shape: Shape) -> float:
    """The output layer's part of a forward's matrix products, when it runs at every position."""
    tokens = IMAGE_TOKENS + TEXT_TOKENS
    layer = 4 * shape.hidden**2 + 3 * shape.hidden * shape.intermediate
    attention = 2 * tokens * shape.hidden
    head = shape.hidden * shape.vocabulary
    vision = shape.vision_layers * (12 * shape.vision_hidden**2 + 2 * tokens * shape.vision_hidden)
    return head / (head + shape.layers * (layer + attention) + vision)


@dataclass(frozen=True)
class _Sample:
    ids: torch.Tensor
    pixels: torch.Tensor


class Samples:
    """A set of random samples. It gives the reference pass what a tokenised set gives it."""

    def __init__(self, shape: Shape, size: int, *, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        side = PATCHES * shape.patch_pixels
        self._dtype = shape.dtype
        self.digest = f"{shape.name}-{seed}-{size}"
        self.samples = []
        for _ in range(size):
            text = torch.randint(10, shape.vocabulary, (TEXT_TOKENS,), generator=generator)
            ids = torch.cat([torch.full((IMAGE_TOKENS,), IMAGE), text])
            self.samples.append(_Sample(ids, torch.randn(3, side, side, generator=generator)))

    def __len__(self) -> int:
        return len(self.samples)

    def batch(
        self,
        indices: Sequence[int],
        *,
        global_indices: Sequence[int],
        device: torch.device,
        reference_logps_B: torch.Tensor | None = None,
    ) -> Batch:
        chosen = [self.samples[index] for index in indices]
        ids_BT = torch.stack([sample.ids for sample in chosen]).to(device)
        labels_BT = ids_BT.clone()
        labels_BT[:, :-SUPERVISED] = -100
        pixels = torch.stack([sample.pixels for sample in chosen])
        return Batch(
            inputs={
                "input_ids": ids_BT,
                "attention_mask": torch.ones_like(ids_BT),
                "pixel_values": pixels.to(device, self._dtype),
            },
            labels_BT=labels_BT,
            image_mask_BT=ids_BT == IMAGE,
            global_tokens=SUPERVISED * len(global_indices),
            global_samples=len(global_indices),
            reference_logps_B=None if reference_logps_B is None else reference_logps_B.to(device),
        )


FAMILY = LLAVA
