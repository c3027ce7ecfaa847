"""Idefics 3 (`HuggingFaceM4/Idefics3-8B-Llama3`): an image as tiles, row by row, and an overview, with tokens around each."""

from safemirage.models.families.family import Family

IDEFICS3 = Family(
    name="idefics3",
    lmms_eval="idefics2",
    language="model.text_model",
    layers="model.text_model.layers",
    head="lm_head",
    projector="model.connector",
    vision="model.vision_model",
    hub_prefixes=(
        ("model.text_model.", "model.text_model."),
        ("model.connector.", "model.connector."),
        ("model.vision_model.", "model.vision_model."),
        ("lm_head.", "lm_head."),
    ),
    shared_settings=(("image_token_id", "image_token_id"),),
    # Idefics' conversation: roles as words, each message closed by its own token.
    chat_template=(
        "{{ '<|im_start|>' }}"
        "{%- for message in messages -%}"
        "{%- set parts = [{'type': 'text', 'text': message['content']}]"
        " if message['content'] is string else message['content'] -%}"
        "{{ message['role'] | capitalize + (':' if parts[0]['type'] == 'image' else ': ') }}"
        "{%- for part in parts -%}"
        "{%- if part['type'] == 'image' -%}{{ '<image>' }}{%- else -%}{{ part['text'] }}{%- endif -%}"
        "{%- endfor -%}"
        "{{ '<end_of_utterance>\n' }}"
        "{%- endfor -%}"
        "{%- if add_generation_prompt -%}{{ 'Assistant:' }}{%- endif -%}"
    ),
    supports_shared_prefix=True,
    alike_in_vllm=False,
)
