"""The miniature's model: a LLaVA of about 1 M parameters with a tokenizer and a processor of its own.

The vision tower is pre-trained here, as a classifier of kinds and colours, and frozen from then on: a tower of random
weights never learns to see while the language model beside it learns to speak. The rest starts from random weights;
training it into a base model is an ordinary run on the world's `base.json`.
"""

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers
from torch import Tensor, nn
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from safemirage.config.loading.identity import digest_of, identity_tree
from safemirage.config.loading.load import to_tree
from safemirage.config.world import TowerConfig, WorldConfig
from safemirage.miniature.pictures import draw
from safemirage.miniature.questions import vocabulary
from safemirage.miniature.world import World
from safemirage.models.export import ExportRecord, write_export
from safemirage.models.families import LLAVA
from safemirage.models.manifest import MANIFEST_NAME
from safemirage.storage import Storage
from safemirage.versions import current_commit

FORMAT = 1
"""The version of the initial model, raised when the same config gives another one than before."""
SPECIAL_TOKENS = ("<pad>", "<unk>", "<s>", "</s>", "<image>")

CHAT_TEMPLATE = """\
{%- for message in messages -%}
{{ message['role'] | upper }}: {% if message['content'] is string -%}
{{ message['content'] }}
{%- else -%}
{%- for part in message['content'] if part['type'] == 'image' %}<image>\n{% endfor -%}
{%- for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor -%}
{%- endif -%}
{{ '</s>' if message['role'] == 'assistant' else ' ' }}
{%- endfor -%}
{%- if add_generation_prompt %}ASSISTANT:{% endif -%}
"""

# LLaVA reads the last layer but one: the last of CLIP serves its class token, not its patches.
_VISION_LAYER = -2


def build_tokenizer(config: WorldConfig) -> PreTrainedTokenizerFast:
    """One token a word. The unseen words are in the vocabulary, as any word is in a real one, and never trained."""
    words = ["user", "assistant", "system", *"abcdefghijklmnopqrstuvwxyz.,:;?!'-"]
    words += [word for word in vocabulary(config) if word not in words]
    entries = {word: index for index, word in enumerate([*SPECIAL_TOKENS, *words])}
    tokenizer = Tokenizer(models.WordLevel(entries, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex(r"[^\w<>/]"), "isolated")]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=["<image>"],
        clean_up_tokenization_spaces=False,
        model_max_length=config.language.max_positions,
        padding_side="right",
    )


def build_processor(config: WorldConfig) -> LlavaProcessor:
    size = config.tower.image_size
    images = CLIPImageProcessorPil(
        size={"shortest_edge": size}, crop_size={"height": size, "width": size}
    )
    return LlavaProcessor(
        image_processor=images,
        tokenizer=build_tokenizer(config),
        patch_size=config.tower.patch_size,
        # "default" drops the class token, which the processor must know to count an image's tokens.
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )


def build_model(config: WorldConfig, processor: LlavaProcessor) -> LlavaForConditionalGeneration:
    """The initial model: a tower that sees, and a language model and projector of random weights."""
    torch.manual_seed(config.seed)
    model = LlavaForConditionalGeneration(_model_config(config, processor.tokenizer))
    pretrain_tower(model.model.vision_tower, config, processor)
    model.generation_config.pad_token_id = model.config.pad_token_id
    model.generation_config.eos_token_id = model.config.eos_token_id
    model.generation_config.bos_token_id = model.config.bos_token_id
    return model.eval()


def _model_config(config: WorldConfig, tokenizer: PreTrainedTokenizerFast) -> LlavaConfig:
    tower, language = config.tower, config.language
    ids = {
        f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "bos", "eos")
    }
    return LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=tower.hidden_size,
            intermediate_size=2 * tower.hidden_size,
            projection_dim=tower.hidden_size,
            num_hidden_layers=tower.layers,
            num_attention_heads=tower.heads,
            image_size=tower.image_size,
            patch_size=tower.patch_size,
        ),
        text_config=LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=language.hidden_size,
            intermediate_size=language.intermediate_size,
            num_hidden_layers=language.layers,
            num_attention_heads=language.heads,
            num_key_value_heads=language.heads,
            max_position_embeddings=language.max_positions,
            tie_word_embeddings=False,
            **ids,
        ),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=(tower.image_size // tower.patch_size) ** 2,
        vision_feature_layer=_VISION_LAYER,
        vision_feature_select_strategy="default",
        tie_word_embeddings=False,
        **ids,
    )


def pretrain_tower(tower: nn.Module, config: WorldConfig, processor: LlavaProcessor) -> float:
    """Trains the layers that LLaVA reads to tell kinds and colours apart; returns the last batches' accuracy."""
    kinds = [*config.safe_kinds, *config.unsafe_kinds]
    settings = config.tower
    heads = nn.Linear(settings.hidden_size, len(kinds) + len(config.colours))
    optimizer = torch.optim.AdamW(
        [*tower.parameters(), *heads.parameters()], settings.learning_rate
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.learning_rate, total_steps=settings.steps
    )
    correct = 0.0
    for pixels, kind, colour in _batches(config, kinds, processor):
        hidden = tower(pixels, output_hidden_states=True).hidden_states[_VISION_LAYER]
        # The patches alone are trained to tell, because they are what LLaVA reads; the class token it drops.
        logits = heads(hidden[:, 1:].mean(dim=1))
        kind_logits, colour_logits = logits.split([len(kinds), len(config.colours)], dim=1)
        loss = nn.functional.cross_entropy(kind_logits, kind)
        loss = loss + nn.functional.cross_entropy(colour_logits, colour)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        hits = (kind_logits.argmax(1) == kind) & (colour_logits.argmax(1) == colour)
        # A running mean: one batch of 64 says little.
        correct = 0.9 * correct + 0.1 * hits.float().mean().item()
    return correct


def _batches(
    config: WorldConfig, kinds: list[str], processor: LlavaProcessor
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Batches of pixels (B, 3, S, S), kinds (B,) and colours (B,), over pictures that no set holds."""
    rng = random.Random(f"{config.seed}/tower")
    settings: TowerConfig = config.tower
    truth = [
        (rng.randrange(len(kinds)), rng.randrange(len(config.colours)))
        for _ in range(settings.pictures)
    ]
    images = [draw(kinds[k], config.colours[c], settings.image_size, rng) for k, c in truth]
    pixels = processor.image_processor(images, return_tensors="pt")["pixel_values"]
    labels = torch.tensor(truth)
    order = np.random.default_rng(config.seed)
    for _ in range(settings.steps):
        rows = torch.from_numpy(order.integers(0, settings.pictures, settings.batch_size))
        yield pixels[rows], labels[rows, 0], labels[rows, 1]


def build_initial_model(world: World, storage: Storage) -> Path:
    """The export's folder: trained at the first call (half a minute), found at later ones.

    It depends on the world's kinds, colours, words, sizes and seed, and on none of its sets.
    """
    config = replace(world.config, sets=type(world.config.sets)())
    identity = digest_of({"format": FORMAT, "config": identity_tree(config)})
    folder = storage.worlds / f"initial-{identity[:16]}"
    if (folder / MANIFEST_NAME).is_file():
        return folder
    processor = build_processor(config)
    write_export(
        folder,
        model=build_model(config, processor),
        processor=processor,
        state_dict=None,
        family=LLAVA,
        record=ExportRecord(
            run_id=folder.name,
            identity=identity,
            method="tower",
            base=None,
            config=to_tree(config),
            metrics={},
            git_commit=current_commit(),
        ),
    )
    return folder
