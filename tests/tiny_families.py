"""A small random member of each family, its tokenizer and processor made here; weights as in tests/tiny.py."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    CLIPVisionConfig,
    GenerationConfig,
    GotOcr2ImageProcessorPil,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3ImageProcessorPil,
    Idefics3Processor,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLProcessor,
    InternVLVideoProcessor,
    InternVLVisionConfig,
    LlamaConfig,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextImageProcessorPil,
    LlavaNextProcessor,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionImageProcessorPil,
    LlavaOnevisionProcessor,
    LlavaOnevisionVideoProcessor,
    PreTrainedModel,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2Config,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessorPil,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
    SiglipVisionConfig,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
    SmolVLMImageProcessorPil,
    SmolVLMProcessor,
    SmolVLMVideoProcessor,
)

from safemirage.models.export import ExportRecord, write_export
from safemirage.models.families import (
    IDEFICS3,
    INTERNVL,
    LLAVA,
    LLAVA_NEXT,
    LLAVA_ONEVISION,
    QWEN2_5_VL,
    QWEN2_VL,
    QWEN3_VL,
    SMOLVLM,
    Family,
)
from tests.tiny import build_tiny_llava, make_tokenizer, tiny_tokenizer

QWEN_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
_IDEFICS_TOKENS = (
    *("<|endoftext|>", "<|im_start|>", "<end_of_utterance>"),
    *("<image>", "<fake_token_around_image>", "<global-img>"),
    *(f"<row_{row}_col_{column}>" for row in (1, 2) for column in (1, 2)),
)
_GRID = [[32, 64], [64, 32], [64, 64]]
_VOCABULARY = 264


@dataclass(frozen=True)
class TinyMember:
    family: Family
    model: PreTrainedModel
    processor: Any


def tiny_llava_next() -> TinyMember:
    config = LlavaNextConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=32,
            patch_size=8,
            projection_dim=32,
        ),
        text_config=LlamaConfig(
            **_text(),
            num_key_value_heads=2,
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=3,
        ),
        image_token_index=4,
        image_grid_pinpoints=_GRID,
        tie_word_embeddings=False,
    )
    processor = LlavaNextProcessor(
        image_processor=LlavaNextImageProcessorPil(
            size={"shortest_edge": 32},
            crop_size={"height": 32, "width": 32},
            image_grid_pinpoints=_GRID,
        ),
        tokenizer=tiny_tokenizer(),
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=LLAVA_NEXT.chat_template,
    )
    model = _seeded(lambda: LlavaNextForConditionalGeneration(config))
    model.generation_config = GenerationConfig(bos_token_id=1, eos_token_id=2, pad_token_id=3)
    return TinyMember(LLAVA_NEXT, model, processor)


def tiny_llava_onevision() -> TinyMember:
    special = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>", "<video>")
    config = LlavaOnevisionConfig(
        vision_config=SiglipVisionConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=32,
            patch_size=8,
            vision_use_head=False,
        ),
        text_config=Qwen2Config(
            **_text(),
            num_key_value_heads=1,
            bos_token_id=0,
            eos_token_id=2,
            pad_token_id=0,
            tie_word_embeddings=False,
        ),
        image_token_index=special.index("<image>"),
        video_token_index=special.index("<video>"),
        image_grid_pinpoints=_GRID,
        tie_word_embeddings=False,
    )
    size = {"height": 32, "width": 32}
    processor = LlavaOnevisionProcessor(
        image_processor=LlavaOnevisionImageProcessorPil(size=size, image_grid_pinpoints=_GRID),
        tokenizer=make_tokenizer(special, eos="<|im_end|>", pad="<|endoftext|>"),
        video_processor=LlavaOnevisionVideoProcessor(size=size),
        num_image_tokens=16,
        vision_feature_select_strategy="full",
        chat_template=LLAVA_ONEVISION.chat_template,
    )
    model = _seeded(lambda: LlavaOnevisionForConditionalGeneration(config))
    return TinyMember(LLAVA_ONEVISION, _ending(model), processor)


def tiny_internvl() -> TinyMember:
    special = (
        "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<IMG_CONTEXT>", "<img>", "</img>", "<video>",
    )  # fmt: skip
    config = InternVLConfig(
        vision_config=InternVLVisionConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=32,
            patch_size=8,
        ),
        text_config=Qwen2Config(
            **_text(),
            num_key_value_heads=1,
            bos_token_id=0,
            eos_token_id=2,
            pad_token_id=0,
            tie_word_embeddings=False,
        ),
        image_token_id=special.index("<IMG_CONTEXT>"),
        image_seq_length=4,
        tie_word_embeddings=False,
    )
    size = {"height": 32, "width": 32}
    processor = InternVLProcessor(
        image_processor=GotOcr2ImageProcessorPil(size=size, max_patches=4),
        tokenizer=make_tokenizer(
            special,
            eos="<|im_end|>",
            pad="<|endoftext|>",
            context_image="<IMG_CONTEXT>",
            start_image="<img>",
            end_image="</img>",
            video="<video>",
        ),
        video_processor=InternVLVideoProcessor(size=size),
        image_seq_length=4,
        chat_template=INTERNVL.chat_template,
    )
    model = _seeded(lambda: InternVLForConditionalGeneration(config))
    return TinyMember(INTERNVL, _ending(model), processor)


def tiny_idefics3() -> TinyMember:
    processor = Idefics3Processor(**_idefics_parts(Idefics3ImageProcessorPil))
    config = Idefics3Config(**_idefics_config())
    model = _seeded(lambda: Idefics3ForConditionalGeneration(config))
    return TinyMember(IDEFICS3, _ending(model), processor)


def tiny_smolvlm() -> TinyMember:
    video = SmolVLMVideoProcessor(size={"longest_edge": 32}, max_image_size={"longest_edge": 32})
    parts = _idefics_parts(SmolVLMImageProcessorPil)
    processor = SmolVLMProcessor(**parts, video_processor=video)
    config = SmolVLMConfig(**_idefics_config())
    model = _seeded(lambda: SmolVLMForConditionalGeneration(config))
    return TinyMember(SMOLVLM, _ending(model), processor)


def _idefics_parts(images: type) -> dict[str, Any]:
    return {
        "image_processor": images(size={"longest_edge": 64}, max_image_size={"longest_edge": 32}),
        "tokenizer": make_tokenizer(_IDEFICS_TOKENS, eos="<end_of_utterance>", pad="<|endoftext|>"),
        "image_seq_len": 4,
        "chat_template": IDEFICS3.chat_template,
    }


def _idefics_config() -> dict[str, Any]:
    return {
        "vision_config": {
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 32,
            "patch_size": 8,
        },
        "text_config": LlamaConfig(
            **{**_text(), "vocab_size": 268},
            num_key_value_heads=2,
            bos_token_id=0,
            eos_token_id=2,
            pad_token_id=0,
            tie_word_embeddings=False,
        ),
        "image_token_id": _IDEFICS_TOKENS.index("<image>"),
        "scale_factor": 2,
        "pad_token_id": 0,
        "tie_word_embeddings": False,
    }


def tiny_qwen2_vl() -> TinyMember:
    """Its embedding serves as output layer too, as in the 2B."""
    config = Qwen2VLConfig(
        text_config=_qwen_text(tie_word_embeddings=True),
        vision_config={
            "depth": 2,
            "embed_dim": 32,
            "hidden_size": 64,
            "num_heads": 2,
            "mlp_ratio": 2,
            "patch_size": 8,
        },
        tie_word_embeddings=True,
        **_QWEN_IDS,
    )
    model = _seeded(lambda: Qwen2VLForConditionalGeneration(config))
    return TinyMember(QWEN2_VL, _ending(model), _qwen_processor(Qwen2VLProcessor))


def tiny_qwen2_5_vl() -> TinyMember:
    config = Qwen2_5_VLConfig(
        text_config=_qwen_text(tie_word_embeddings=False),
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "out_hidden_size": 64,
            "intermediate_size": 64,
            "num_heads": 2,
            "patch_size": 8,
            "window_size": 32,
            "fullatt_block_indexes": [1],
        },
        tie_word_embeddings=False,
        **_QWEN_IDS,
    )
    model = _seeded(lambda: Qwen2_5_VLForConditionalGeneration(config))
    return TinyMember(QWEN2_5_VL, _ending(model), _qwen_processor(Qwen2_5_VLProcessor))


def tiny_qwen3_vl() -> TinyMember:
    text = _qwen_text(tie_word_embeddings=False)
    text["rope_parameters"] = {
        "rope_type": "default",
        "rope_theta": 10000.0,
        "mrope_section": [6, 5, 5],
    }
    config = Qwen3VLConfig(
        text_config={**text, "head_dim": 32},
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "out_hidden_size": 64,
            "intermediate_size": 64,
            "num_heads": 2,
            "patch_size": 8,
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0],
        },
        tie_word_embeddings=False,
        **_QWEN_IDS,
    )
    model = _seeded(lambda: Qwen3VLForConditionalGeneration(config))
    processor = _qwen_processor(Qwen3VLProcessor, QWEN3_VL, Qwen3VLVideoProcessor)
    return TinyMember(QWEN3_VL, _ending(model), processor)


def tiny_llava() -> TinyMember:
    tiny = build_tiny_llava()
    return TinyMember(LLAVA, tiny.model, tiny.processor)


TINY_MEMBERS: dict[str, Callable[[], TinyMember]] = {
    "llava": tiny_llava,
    "llava_next": tiny_llava_next,
    "llava_onevision": tiny_llava_onevision,
    "qwen2_vl": tiny_qwen2_vl,
    "qwen2_5_vl": tiny_qwen2_5_vl,
    "qwen3_vl": tiny_qwen3_vl,
    "internvl": tiny_internvl,
    "idefics3": tiny_idefics3,
    "smolvlm": tiny_smolvlm,
}


def make_tiny_member(folder: Path, family: str) -> Path:
    """Writes model and processor of a family as a base; returns the folder."""
    member = TINY_MEMBERS[family]()
    member.model.save_pretrained(folder)
    member.processor.save_pretrained(folder)
    return folder


def export_member(folder: Path, member: TinyMember) -> Path:
    """Writes model and processor as the export of a run; returns the folder."""
    write_export(
        folder,
        model=member.model,
        processor=member.processor,
        state_dict=None,
        family=member.family,
        record=ExportRecord(
            run_id="run",
            identity="1" * 64,
            method="sft",
            base=None,
            config={},
            metrics={},
            git_commit=None,
        ),
    )
    return folder


_QWEN_IDS = {
    f"{name}_token_id": QWEN_TOKENS.index(token)
    for name, token in (
        ("image", "<|image_pad|>"),
        ("video", "<|video_pad|>"),
        ("vision_start", "<|vision_start|>"),
        ("vision_end", "<|vision_end|>"),
    )
}


def _text() -> dict[str, Any]:
    return {
        "vocab_size": _VOCABULARY,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 512,
        # Ten times the usual spread: with it, greedy answers depend on question and image.
        "initializer_range": 0.2,
    }


def _qwen_text(*, tie_word_embeddings: bool) -> dict[str, Any]:
    return {
        **_text(),
        "num_key_value_heads": 1,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "tie_word_embeddings": tie_word_embeddings,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000.0,
            "mrope_section": [4, 6, 6],
        },
    }


def _qwen_processor(
    kind: type, family: Family = QWEN2_VL, videos: type = Qwen2VLVideoProcessor
) -> Any:
    # From 2 x 2 to 6 x 6 tokens an image, of 16 x 16 pixels each.
    size = {"shortest_edge": 32 * 32, "longest_edge": 96 * 96}
    patches = {"patch_size": 8, "temporal_patch_size": 2, "merge_size": 2, "size": size}
    tokenizer = make_tokenizer(QWEN_TOKENS, eos="<|im_end|>", pad="<|endoftext|>")
    return kind(
        image_processor=Qwen2VLImageProcessorPil(**patches),
        tokenizer=tokenizer,
        video_processor=videos(**patches),
        chat_template=family.chat_template,
    )


def _ending(model: Any) -> Any:
    model.generation_config = GenerationConfig(bos_token_id=0, eos_token_id=[2, 0], pad_token_id=0)
    return model


def _seeded(build: Callable[[], Any]) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build()
        for name, weight in model.named_parameters():
            if ".visual." in name or ".vision_tower." in name or ".vision_model." in name:
                # A vision tower of the usual tiny spread gives every image the same features.
                torch.nn.init.normal_(weight, std=0.2) if weight.ndim > 1 else None
    return model.eval()
