"""Qwen2.5-VL, 3B to 72B: `Qwen/Qwen2.5-VL-7B-Instruct`. Names and conversation are Qwen2-VL's."""

from dataclasses import replace

from safemirage.models.families.qwen2_vl import QWEN2_VL

QWEN2_5_VL = replace(QWEN2_VL, name="qwen2_5_vl", lmms_eval="qwen2_5_vl")
