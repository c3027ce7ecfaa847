"""SmolVLM 2, 256M to 2.2B: `HuggingFaceTB/SmolVLM2-2.2B-Instruct`. Built as Idefics 3; its processor needs num2words."""

from dataclasses import replace

from safemirage.models.families.idefics3 import IDEFICS3

SMOLVLM = replace(IDEFICS3, name="smolvlm", video_processor="SmolVLMVideoProcessor")
