"""A tiny checkpoint in the original LLaVA's layout, and what the original computes from it: features spliced into text."""

import json
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import LlavaForConditionalGeneration

from tests.tiny import tiny_config

VOCABULARY = 300
TOKENIZER_CONFIG = {
    "tokenizer_class": "LlamaTokenizer",
    "bos_token": "<s>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "pad_token": None,
    "add_bos_token": True,
    "add_eos_token": False,
    "clean_up_tokenization_spaces": False,
    "legacy": False,
    "model_max_length": 2048,
    "sp_model_kwargs": {},
}
"""As published."""


class OriginalLlava:
    """The parts by the original's names; `answer_logits` puts them together in its way."""

    def __init__(self, seed: int = 0) -> None:
        config = tiny_config()
        config.text_config.vocab_size = VOCABULARY
        config.text_config.pad_token_id = config.pad_token_id = 0
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.parts = LlavaForConditionalGeneration(config).eval()
            for name, weight in self.parts.model.vision_tower.named_parameters():
                if weight.ndim > 1 and "class" not in name:
                    torch.nn.init.normal_(weight, std=0.2)

    def weights(self, *, tower: bool) -> dict[str, Tensor]:
        """The state dict that the original saves."""
        language = self.parts.model.language_model
        projector = self.parts.model.multi_modal_projector
        found = {f"model.{name}": value for name, value in language.state_dict().items()}
        found["lm_head.weight"] = self.parts.lm_head.weight.data
        for number, layer in ((0, projector.linear_1), (2, projector.linear_2)):
            found[f"model.mm_projector.{number}.weight"] = layer.weight.data
            found[f"model.mm_projector.{number}.bias"] = layer.bias.data
        if tower:
            prefix = "model.vision_tower.vision_tower.vision_model"
            found |= {f"{prefix}.{n}": v for n, v in self._tower().items()}
        return {name: value.detach().clone() for name, value in found.items()}

    def save_tower(self, folder: Path) -> Path:
        """A folder as that of openai/clip-vit-large-patch14-336: both halves of a CLIP."""
        folder.mkdir()
        weights = {f"vision_model.{n}": v.detach().clone() for n, v in self._tower().items()}
        weights |= {
            "vision_model.embeddings.position_ids": torch.arange(17)[None],
            "text_model.final_layer_norm.weight": torch.ones(3),
            "visual_projection.weight": torch.ones(2, 2),
            "logit_scale": torch.tensor(1.0),
        }
        torch.save(weights, folder / "pytorch_model.bin")
        vision = self.parts.config.vision_config.to_dict()
        (folder / "config.json").write_text(
            json.dumps({"model_type": "clip", "vision_config": vision})
        )
        return folder

    @torch.no_grad()
    def answer_logits(self, before: list[int], pixels: Tensor | None, after: list[int]) -> Tensor:
        """(T, V): token ids, an image's features, token ids."""
        embed = self.parts.get_input_embeddings()
        pieces = [embed(torch.tensor([before]))]
        if pixels is not None:
            hidden = self.parts.model.vision_tower(pixels, output_hidden_states=True).hidden_states
            pieces.append(self.parts.model.multi_modal_projector(hidden[-2][:, 1:]))
        pieces.append(embed(torch.tensor([after])))
        output = self.parts.model.language_model(inputs_embeds=torch.cat(pieces, dim=1))
        logits: Tensor = self.parts.lm_head(output.last_hidden_state)[0]
        return logits

    def _tower(self) -> dict[str, Tensor]:
        state: dict[str, Tensor] = self.parts.model.vision_tower.state_dict()
        return state


def original_config() -> dict[str, Any]:
    text = tiny_config().text_config
    keys = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    return {
        "architectures": ["LlavaLlamaForCausalLM"],
        "model_type": "llava_llama",
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-6,
        "rope_scaling": None,
        "torch_dtype": "float32",
        "image_aspect_ratio": "pad",
        "mm_hidden_size": 32,
        "mm_projector_type": "mlp2x_gelu",
        "mm_use_im_start_end": False,
        "mm_vision_select_feature": "patch",
        "mm_vision_select_layer": -2,
        "mm_vision_tower": "openai/clip-vit-large-patch14-336",
        **{key: getattr(text, key) for key in keys},
    }


def save_full(folder: Path, weights: dict[str, Tensor], *, num_files: int = 2) -> Path:
    """`pytorch_model-*.bin` with their index, config and tokenizer."""
    folder.mkdir(parents=True)
    names = sorted(weights)
    weight_map = {}
    for number in range(num_files):
        file = f"pytorch_model-{number + 1:05}-of-{num_files:05}.bin"
        chosen = names[number::num_files]
        torch.save({name: weights[name] for name in chosen}, folder / file)
        weight_map |= dict.fromkeys(chosen, file)
    index = folder / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    (folder / "config.json").write_text(json.dumps(original_config()))
    (folder / "tokenizer.model").write_bytes(tiny_pieces())
    (folder / "tokenizer_config.json").write_text(json.dumps(TOKENIZER_CONFIG))
    return folder


@cache
def tiny_pieces() -> bytes:
    """A SentencePiece model of Llama's kind with VOCABULARY pieces: bytes for what it does not know."""
    sentencepiece = pytest.importorskip("sentencepiece")
    model = BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["a red car and a blue cup on the table"] * 50),
        model_writer=model,
        vocab_size=VOCABULARY,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    return model.getvalue()


def save_lora(folder: Path, *, seed: int = 1, pickled: bool = True) -> Path:
    """Rank 4 on all linear layers of the language model, and a projector trained in full."""
    folder.mkdir(parents=True)
    generator = torch.Generator().manual_seed(seed)
    layers = OriginalLlava().parts.model.language_model.layers
    adapter = {}
    for name, module in layers.named_modules():
        if isinstance(module, torch.nn.Linear):
            prefix = f"base_model.model.model.layers.{name}"
            for half, shape in (("A", (4, module.in_features)), ("B", (module.out_features, 4))):
                weight = 0.3 * torch.randn(shape, generator=generator)
                adapter[f"{prefix}.lora_{half}.weight"] = weight
    if pickled:
        torch.save(adapter, folder / "adapter_model.bin")
    else:
        save_file(adapter, folder / "adapter_model.safetensors")
    projector = {
        f"base_model.model.{name}": value + 0.1 * torch.randn(value.shape, generator=generator)
        for name, value in OriginalLlava().weights(tower=False).items()
        if ".mm_projector." in name
    }
    torch.save(projector, folder / "non_lora_trainables.bin")
    settings = {
        "peft_type": "LORA",
        "bias": "none",
        "r": 4,
        "lora_alpha": 8,
        "lora_dropout": 0.05,
        "target_modules": ["q_proj", "down_proj"],
        "base_model_name_or_path": "liuhaotian/llava-v1.5-7b",
    }
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    (folder / "config.json").write_text(json.dumps(original_config()))
    return folder


def merged_by_hand(folder: Path) -> OriginalLlava:
    """The original with a LoRA checkpoint's weights: W + (alpha / r) B A, and the projector replaced."""
    model = OriginalLlava()
    adapter = torch.load(folder / "adapter_model.bin", weights_only=True)
    with torch.no_grad():
        for name, a in adapter.items():
            if ".lora_A." in name:
                path = name.removeprefix("base_model.model.model.").removesuffix(".lora_A.weight")
                b = adapter[name.replace("lora_A", "lora_B")]
                model.parts.model.language_model.get_submodule(path).weight += 8 / 4 * b @ a
        trained = torch.load(folder / "non_lora_trainables.bin", weights_only=True)
        projector = model.parts.model.multi_modal_projector
        for number, layer in ((0, projector.linear_1), (2, projector.linear_2)):
            layer.weight.copy_(trained[f"base_model.model.model.mm_projector.{number}.weight"])
            layer.bias.copy_(trained[f"base_model.model.model.mm_projector.{number}.bias"])
    return model
