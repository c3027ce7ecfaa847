"""Qwen3-VL, 2B to 32B, dense: `Qwen/Qwen3-VL-8B-Instruct`. The first decoder layers are given image features of their own.

Its public files have the names of the model, its conversation no system message by default. The mergers of those features
(`deepstack_merger_list`) count as the vision tower's; the projector is the last one.
"""

from dataclasses import replace

from safemirage.models.families.qwen2_vl import CHATML, QWEN2_VL

QWEN3_VL = replace(
    QWEN2_VL,
    name="qwen3_vl",
    lmms_eval="qwen3_vl",
    hub_prefixes=(
        ("model.language_model.", "model.language_model."),
        ("model.visual.", "model.visual."),
        ("lm_head.", "lm_head."),
    ),
    chat_template=CHATML,
    alike_in_vllm=False,
    video_processor="Qwen3VLVideoProcessor",
)
