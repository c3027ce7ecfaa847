"""The original's two ways of preparing an image, by hand: at the tiny models' 32 pixels a side."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


def padded_by_hand(image: Image.Image) -> Tensor:
    """Mean colour in whole numbers around it, then one bicubic resize: what the original's training does."""
    side = max(image.size)
    square = Image.new("RGB", (side, side), tuple(int(value * 255) for value in MEAN))
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return normalised(square.resize((32, 32), Image.Resampling.BICUBIC))


def cropped_by_hand(image: Image.Image) -> Tensor:
    """The short side to 32, then the centre."""
    short = min(image.size)
    width, height = (side * 32 // short for side in image.size)
    scaled = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - 32) // 2, (height - 32) // 2
    return normalised(scaled.crop((left, top, left + 32, top + 32)))


def normalised(image: Image.Image) -> Tensor:
    values = (np.asarray(image) / 255 - np.array(MEAN)) / np.array(STD)
    return torch.tensor(values, dtype=torch.float32).permute(2, 0, 1)[None]
