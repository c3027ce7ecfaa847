"""LLaVA-1.5, 7B and 13B: `llava-hf/llava-1.5-7b-hf`, and what `safemirage convert` makes of the original's files."""

from safemirage.models.families.family import Family


def vicuna_template(person: str) -> str:
    """Jinja of the template; `person` is what the system sentence calls the one who asks.

    LLaVA's `vicuna_v1` says user, its `llava_v1` says human (conversation.py of haotian-liu/LLaVA); nothing else
    differs between the two.
    """
    return (
        "{%- if messages[0]['role'] != 'system' -%}"
        f'{{{{ "A chat between a curious {person} and an artificial intelligence assistant. '
        f"The assistant gives helpful, detailed, and polite answers to the {person}'s questions. \" }}}}"
        "{%- endif -%}"
        "{%- for message in messages -%}"
        "{%- set parts = [{'type': 'text', 'text': message['content']}]"
        " if message['content'] is string else message['content'] -%}"
        "{%- set text = parts | selectattr('type', 'equalto', 'text') | map(attribute='text') | join('\n') -%}"
        "{%- if message['role'] == 'system' -%}{{ text + ' ' }}"
        "{%- elif message['role'] == 'user' -%}{{ 'USER: ' }}"
        "{%- for part in parts | selectattr('type', 'equalto', 'image') -%}{{ '<image>\n' }}{%- endfor -%}"
        "{{ text + ' ' }}"
        "{%- else -%}{{ 'ASSISTANT: ' + text + eos_token }}"
        "{%- endif -%}"
        "{%- endfor -%}"
        "{%- if add_generation_prompt -%}{{ 'ASSISTANT:' }}{%- endif -%}"
    )


VICUNA_V1 = vicuna_template("user")
LLAVA_V1 = vicuna_template("human")
TEMPLATES = {"vicuna_v1": VICUNA_V1, "llava_v1": LLAVA_V1}

LLAVA = Family(
    name="llava",
    lmms_eval="llava_hf",
    language="model.language_model",
    layers="model.language_model.layers",
    head="lm_head",
    projector="model.multi_modal_projector",
    vision="model.vision_tower",
    hub_prefixes=(
        ("model.language_model.", "language_model.model."),
        ("lm_head.", "language_model.lm_head."),
        ("model.multi_modal_projector.", "multi_modal_projector."),
        # The public checkpoints keep the tower's inner prefix, which transformers drops on load.
        ("model.vision_tower.vision_model.", "vision_tower.vision_model."),
        ("model.vision_tower.", "vision_tower.vision_model."),
    ),
    shared_settings=(
        ("image_token_id", "image_token_id"),
        ("patch_size", "vision_config.patch_size"),
        ("vision_feature_select_strategy", "vision_feature_select_strategy"),
    ),
    chat_template=VICUNA_V1,
    supports_shared_prefix=True,
    templates=TEMPLATES,
    takes_square_images=True,
    patch_size_in_model=True,
)
