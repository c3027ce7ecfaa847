"""LLaVA-NeXT (1.6): an image as one overview and a grid of tiles, rows closed by a learned newline.

Its public processors bring their own template; the one here is that of the Vicuna members.
"""

from safemirage.models.families.family import Family
from safemirage.models.families.vicuna import TEMPLATES, VICUNA_V1

LLAVA_NEXT = Family(
    name="llava_next",
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
        ("model.image_newline", "image_newline"),
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
    patch_size_in_model=True,
)
