"""InternVL 3 in the hub's layout, 1B to 78B: `OpenGVLab/InternVL3-8B-hf`. Tiles and an overview, each 256 tokens."""

from safemirage.models.families.family import Family
from safemirage.models.families.qwen2_vl import CHATML

INTERNVL = Family(
    name="internvl",
    lmms_eval="internvl_hf",
    language="model.language_model",
    layers="model.language_model.layers",
    head="lm_head",
    projector="model.multi_modal_projector",
    vision="model.vision_tower",
    hub_prefixes=(
        ("model.language_model.", "language_model.model."),
        ("lm_head.", "language_model.lm_head."),
        ("model.multi_modal_projector.", "multi_modal_projector."),
        ("model.vision_tower.", "vision_tower."),
    ),
    shared_settings=(
        ("image_token_id", "image_token_id"),
        ("image_seq_length", "image_seq_length"),
    ),
    # ChatML without vision tokens: the processor writes its own around each image.
    chat_template=CHATML.replace("<|vision_start|><|image_pad|><|vision_end|>", "<IMG_CONTEXT>\n"),
    supports_shared_prefix=True,
    alike_in_vllm=False,
    video_processor="InternVLVideoProcessor",
)
