"""LLaVA-1.5, 7B and 13B: `llava-hf/llava-1.5-7b-hf`, and what `safemirage convert` makes of the original's files."""

from safemirage.models.families.family import Family
from safemirage.models.families.vicuna import TEMPLATES, VICUNA_V1

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
