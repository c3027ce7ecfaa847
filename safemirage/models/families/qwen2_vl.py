"""Qwen2-VL, 2B to 72B: `Qwen/Qwen2-VL-2B-Instruct`. Images keep their shape; positions have three axes."""

from safemirage.models.families.family import Family

CHATML = (
    "{%- for message in messages -%}"
    "{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{%- if message['content'] is string -%}{{ message['content'] }}"
    "{%- else -%}{%- for part in message['content'] -%}"
    "{%- if part['type'] == 'image' -%}{{ '<|vision_start|><|image_pad|><|vision_end|>' }}"
    "{%- else -%}{{ part['text'] }}{%- endif -%}"
    "{%- endfor -%}{%- endif -%}"
    "{{ '<|im_end|>\n' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}"
)
"""ChatML, an image between two vision tokens."""
_ASSISTANT = (
    "{%- if messages[0]['role'] != 'system' -%}"
    "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}"
    "{%- endif -%}"
)
"""What Qwen2-VL begins every conversation with that brings no system message of its own."""

QWEN2_VL = Family(
    name="qwen2_vl",
    lmms_eval="qwen2_vl",
    language="model.language_model",
    layers="model.language_model.layers",
    head="lm_head",
    projector="model.visual.merger",
    vision="model.visual",
    hub_prefixes=(
        ("model.language_model.", "model."),
        ("model.visual.", "visual."),
        ("lm_head.", "lm_head."),
    ),
    shared_settings=(
        ("image_token_id", "image_token_id"),
        ("image_processor.patch_size", "vision_config.patch_size"),
        ("image_processor.merge_size", "vision_config.spatial_merge_size"),
        ("image_processor.temporal_patch_size", "vision_config.temporal_patch_size"),
    ),
    chat_template=_ASSISTANT + CHATML,
    video_processor="Qwen2VLVideoProcessor",
)
