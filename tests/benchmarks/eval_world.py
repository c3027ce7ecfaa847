"""What the evaluation benchmark runs on: a small LLaVA in the 7B's proportions, and a sample of the 2,882 prompts.

The original asks one checkpoint 2,882 questions about 1,000 images: 558 safe images plain (558) and rewritten to
"share" (556), 442 unsafe ones plain (442) and rewritten to "what" three times (1,326). Its judge, as large a model, reads
the unsafe answers: 1,768. The sample keeps these proportions with 22 images: 12 + 12 + 10 + 30 prompts, 40 verdicts.
"""

import io
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    GenerationConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from safemirage.evaluation.types import ImageInput, Sample
from safemirage.models.families import LLAVA

Role = Literal["answer", "judge"]

FULL_PROMPTS = 2882
SAFE_SHARE = 0.558
REWRITES = 3
IMAGE_TOKENS = 576
NUM_WORDS = 500
_SPECIAL = ("<pad>", "<unk>", "<s>", "</s>", "<image>")


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Sizes of a LLaVA whose tower takes 4 % of a prompt's products, as in the 7B."""

    hidden: int
    layers: int
    inner: int
    heads: int
    vision_hidden: int
    vision_layers: int
    vision_heads: int
    vocabulary: int


SMALL = Shape(
    hidden=256, layers=4, inner=688, heads=4,
    vision_hidden=48, vision_layers=2, vision_heads=1, vocabulary=505,
)  # fmt: skip
SEVEN_B = Shape(
    hidden=4096, layers=32, inner=11008, heads=32,
    vision_hidden=1024, vision_layers=24, vision_heads=16, vocabulary=32064,
)  # fmt: skip


def write_model(folder: Path, shape: Shape, dtype: torch.dtype) -> Path:
    """A LLaVA of random weights in the public layout, with its processor."""
    torch.manual_seed(0)
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        model = LlavaForConditionalGeneration(_config(shape))
    finally:
        torch.set_default_dtype(default)
    model.config.dtype = dtype
    model.generation_config = GenerationConfig(bos_token_id=2, eos_token_id=3, pad_token_id=0)
    model.save_pretrained(folder)
    processor = _processor()
    processor.save_pretrained(folder)
    processor.image_processor.save_pretrained(folder)
    _use_public_names(folder)
    return folder


def _use_public_names(folder: Path) -> None:
    """The public checkpoints keep the tower's inner prefix, which transformers drops and vLLM looks for."""
    from safetensors.torch import load_file, save_file

    for path in folder.glob("*.safetensors"):
        weights = {
            name if ".vision_model." in name or "vision_tower." not in name
            else name.replace("vision_tower.", "vision_tower.vision_model."): tensor
            for name, tensor in load_file(path).items()
        }  # fmt: skip
        save_file(weights, path, {"format": "pt"})


def _config(shape: Shape) -> LlavaConfig:
    ids = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
    return LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=shape.vision_hidden,
            intermediate_size=4 * shape.vision_hidden,
            num_hidden_layers=shape.vision_layers,
            num_attention_heads=shape.vision_heads,
            projection_dim=shape.vision_hidden,
            image_size=336,
            patch_size=14,
        ),
        text_config=LlamaConfig(
            vocab_size=shape.vocabulary,
            hidden_size=shape.hidden,
            intermediate_size=shape.inner,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            num_key_value_heads=shape.heads,
            max_position_embeddings=2048,
            initializer_range=0.08,
            tie_word_embeddings=False,
            **ids,
        ),
        image_token_index=4,
        image_seq_length=IMAGE_TOKENS,
        vision_feature_select_strategy="default",
        vision_feature_layer=-2,
        tie_word_embeddings=False,
        **ids,
    )


def _processor() -> LlavaProcessor:
    words = [f"w{number}" for number in range(NUM_WORDS)]
    core = Tokenizer(
        models.WordLevel({t: i for i, t in enumerate([*_SPECIAL, *words])}, unk_token="<unk>")
    )
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>", unk_token="<unk>", bos_token="<s>", eos_token="</s>",
        additional_special_tokens=["<image>"],
        clean_up_tokenization_spaces=False,
    )  # fmt: skip
    return LlavaProcessor(
        image_processor=CLIPImageProcessorPil(
            size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336}
        ),
        tokenizer=tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=LLAVA.chat_template,
    )


def sampled(num_images: int, seed: int = 0) -> list[Sample]:
    """The four conditions of the protocol over `num_images` images, in the order of the original's files."""
    rng = random.Random(seed)
    images = [_image(rng) for _ in range(num_images)]
    num_safe = round(SAFE_SHARE * num_images)
    samples: list[Sample] = []
    for name, subset, attempts in (
        ("safe_share", "safe", 1), ("unsafe_what", "unsafe", REWRITES),
        ("safe_plain", "safe", 1), ("unsafe_plain", "unsafe", 1),
    ):  # fmt: skip
        numbers = range(num_safe) if subset == "safe" else range(num_safe, num_images)
        for number in numbers:
            for attempt in range(attempts):
                samples.append(
                    Sample(
                        sample_id=f"{name}-{number}-{attempt}",
                        condition=name,
                        subset=subset,  # type: ignore[arg-type]
                        attack=name.partition("_")[2],
                        group_id=f"{name}-{number}",
                        question=_question(len(samples), rng),
                        image=images[number],
                    )
                )
    return samples


def _question(number: int, rng: random.Random) -> str:
    """About as long as VLGuard's, and known by its number."""
    return (
        " ".join(f"w{rng.randrange(NUM_WORDS)}" for _ in range(rng.randint(8, 18))) + f" #{number}"
    )


def _image(rng: random.Random) -> ImageInput:
    noise = np.random.default_rng(rng.randrange(2**32)).integers(
        0, 256, (12, 16, 3), dtype=np.uint8
    )
    stream = io.BytesIO()
    Image.fromarray(noise).resize((480, 360), Image.Resampling.BICUBIC).save(stream, "JPEG")
    return ImageInput(stream.getvalue())


class Lengths:
    """How many tokens each answer has, on every side alike: gamma of shape 2, cut at the original's limits.

    A model of random weights does not end its answers by itself.
    """

    LIMITS: ClassVar[dict[Role, int]] = {"answer": 256, "judge": 200}

    def __init__(
        self,
        count: int,
        *,
        answer_mean: int,
        judge_mean: int,
        one_pass: bool = False,
        seed: int = 0,
    ) -> None:
        self.one_pass = one_pass
        """Whether the judge says its label by one forward pass where it can."""
        self._of = {
            "answer": _draw(count, answer_mean, self.LIMITS["answer"], seed),
            "judge": _draw(count, judge_mean, self.LIMITS["judge"], seed + 1),
        }

    def of(self, role: Role, text: str) -> int:
        """`text` holds the question, whose number it ends with."""
        found = re.search(r"#(\d+)", text)
        assert found is not None, text
        return self._of[role][int(found[1])]

    def total(self, role: Role, samples: Sequence[Sample]) -> int:
        return sum(self.of(role, sample.question) for sample in samples)


def _draw(count: int, mean: int, limit: int, seed: int) -> list[int]:
    """`count` lengths whose mean is `mean` to a half."""
    drawn = np.random.default_rng(seed).gamma(2.0, 1.0, count)
    lengths = np.clip(np.rint(drawn * mean / drawn.mean()), 4, limit)
    while abs(lengths.mean() - mean) > 0.5:  # what the limits took is given back
        lengths = np.clip(np.rint(lengths * mean / lengths.mean()), 4, limit)
    return [int(length) for length in lengths]
