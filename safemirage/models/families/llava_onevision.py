"""LLaVA-OneVision, 0.5B to 72B: `llava-hf/llava-onevision-qwen2-7b-ov-hf`. Tiles as LLaVA-NeXT's, pooled where they are many."""

from dataclasses import replace

from safemirage.models.families.llava_next import LLAVA_NEXT

LLAVA_ONEVISION = replace(
    LLAVA_NEXT,
    name="llava_onevision",
    shared_settings=(
        ("image_token_id", "image_token_id"),
        ("vision_feature_select_strategy", "vision_feature_select_strategy"),
        ("vision_aspect_ratio", "vision_aspect_ratio"),
    ),
    # ChatML, in which the images of a message stand behind its role.
    chat_template=(
        "{%- for message in messages -%}"
        "{%- set parts = [{'type': 'text', 'text': message['content']}]"
        " if message['content'] is string else message['content'] -%}"
        "{{ '<|im_start|>' + message['role'] }}"
        "{%- for part in parts if part['type'] == 'image' -%}{{ ' <image>' }}{%- endfor -%}"
        "{%- for part in parts if part['type'] == 'text' -%}{{ '\n' + part['text'] }}{%- endfor -%}"
        "{{ '<|im_end|>' }}"
        "{%- endfor -%}"
        "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}"
    ),
    templates={},
    patch_size_in_model=False,
    video_processor="LlavaOnevisionVideoProcessor",
)
