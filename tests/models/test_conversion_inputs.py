"""A converted checkpoint sees what the original sees: token ids, labels and pixels, on real questions."""

import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    AutoConfig,
    AutoProcessor,
    AutoTokenizer,
    CLIPImageProcessorPil,
    GenerationConfig,
    PreTrainedTokenizerFast,
)

from safemirage.data.vlguard import iterate_pairs, read_vlguard
from safemirage.models.conversion import ConversionError, convert
from safemirage.models.families import LLAVA
from safemirage.models.processor import load_processor
from safemirage.models.prompts import IGNORED, Prompter, Tokens
from tests.models.original_checkpoint import (
    TOKENIZER_CONFIG,
    OriginalLlava,
    original_config,
    save_full,
    save_lora,
)
from tests.models.original_tokens import IMAGE, SlowLlama, ids_and_labels, image_ids, prompt_of
from tests.models.originals import cropped_by_hand, padded_by_hand

Turns = list[tuple[str, str]]
ODD: list[Turns] = [
    [("What  is\n\nthis?", "Two  blanks,\ta tab and\n a break.")],
    [
        ("lead", "naïve — “quoted” 1,234.5 % 👋 中文"),
        ("  and?", "It's <fine> a < b > c."),
        ("?", "."),
    ],
]
"""Blanks, line breaks, bytes, brackets."""


def llama_pieces() -> Path:
    """A SentencePiece model of Llama's kind and size, out of the package mistral_common."""
    spec = importlib.util.find_spec("mistral_common")
    if spec is None or spec.origin is None:
        pytest.skip(
            "mistral_common is not installed, which has a SentencePiece model of Llama's kind"
        )
    return Path(spec.origin).parent / "data" / "tokenizer.model.v1"


def conversations(vlguard: Path) -> list[Turns]:
    """200 of VLGuard's questions with their answers, 50 of two turns made of them, and odd ones."""
    pairs = list(iterate_pairs(read_vlguard(vlguard / "train.json")))
    single = [[(pair.question, pair.answer)] for _, pair in pairs[:: len(pairs) // 200]][:200]
    assert len(single) == 200
    double = [first + second for first, second in zip(single[:50], single[50:100], strict=True)]
    return [*single, *double, *ODD]


def save_with(folder: Path, pieces: Path, *, model_type: str, legacy: bool) -> Path:
    """A checkpoint of the original with a vocabulary of Llama's size."""
    weights = OriginalLlava().weights(tower=True)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        weights[name] = torch.zeros(32000, 64)
    save_full(folder, weights, num_files=1)
    shutil.copy(pieces, folder / "tokenizer.model")
    config = original_config() | {"vocab_size": 32000, "model_type": model_type}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer_config.json").write_text(json.dumps(TOKENIZER_CONFIG | {"legacy": legacy}))
    return folder


def folded(prompter: Prompter, tokens: Tokens) -> tuple[list[int], list[int]]:
    """Ids and labels with the original's one mark for an image's many."""
    image = prompter.image_token_id
    kept = [
        index
        for index, one in enumerate(tokens.ids)
        if one != image or tokens.ids[index - 1] != image
    ]
    ids = [IMAGE if tokens.ids[index] == image else tokens.ids[index] for index in kept]
    return ids, [tokens.labels[index] for index in kept]


@pytest.mark.filterwarnings("ignore::safemirage.data.records.DataWarning")
@pytest.mark.timeout(300)  # some 500 conversations, twice
@pytest.mark.parametrize(("model_type", "legacy"), [("llava", False), ("llava_llama", True)])
def test_converted_checkpoint_gives_the_original_s_ids_and_labels(
    tmp_path: Path, vlguard: Path, model_type: str, legacy: bool
) -> None:
    source = save_with(tmp_path / "llava", llama_pieces(), model_type=model_type, legacy=legacy)
    hub = tmp_path / "hub"
    report = convert(source, hub, vision_tower=OriginalLlava().save_tower(tmp_path / "clip"))
    assert report.texts > 30_000
    prompter = Prompter(load_processor(hub, LLAVA, AutoConfig.from_pretrained(hub)))
    ruler = SlowLlama(source / "tokenizer.model", legacy=legacy)
    by_others = AutoTokenizer.from_pretrained(hub)
    for turns in conversations(vlguard):
        for image in (True, False):
            tokens = prompter.conversation(turns, images=[(0, (64, 48))] if image else [])
            expected = ids_and_labels(turns, ruler, image=image)
            assert folded(prompter, tokens) == expected
            assert set(expected[1]) != {IGNORED}
            asked = prompter.prompt(turns[0][0], has_image=image)
            assert asked == prompt_of([(turns[0][0], "")], image=image).removesuffix(" </s>")
            ids = [
                IMAGE if one == prompter.image_token_id else one
                for one in by_others(asked)["input_ids"]
            ]
            assert ids == prompter_ids(prompter, asked) == image_ids(asked, ruler)
        answer = turns[0][1]
        assert by_others.decode(by_others(answer)["input_ids"], skip_special_tokens=True) == answer


def prompter_ids(prompter: Prompter, text: str) -> list[int]:
    return [IMAGE if one == prompter.image_token_id else one for one in prompter.prompt_ids(text)]


def small(tmp_path: Path, **settings: Any) -> Path:
    source = save_full(tmp_path / "original", OriginalLlava().weights(tower=True))
    (source / "tokenizer_config.json").write_text(json.dumps(TOKENIZER_CONFIG | settings))
    return source


def test_model_type_of_the_config_changes_nothing_of_the_tokenizer(tmp_path: Path) -> None:
    tower = OriginalLlava().save_tower(tmp_path / "clip")
    source = small(tmp_path)
    written = []
    for model_type in ("llava", "llava_llama"):
        (source / "config.json").write_text(
            json.dumps(original_config() | {"model_type": model_type})
        )
        convert(source, tmp_path / model_type, vision_tower=tower)
        names = ("tokenizer.json", "tokenizer_config.json", "config.json")
        written.append([(tmp_path / model_type / name).read_bytes() for name in names])
    assert written[0] == written[1]


def remove_pieces(source: Path) -> None:
    (source / "tokenizer.model").unlink()


def break_pieces(source: Path) -> None:
    (source / "tokenizer.model").write_bytes(b"no model")


def drop_blanks(source: Path) -> None:
    """A model that, unlike Llama's, reads several blanks as one."""
    from sentencepiece import sentencepiece_model_pb2

    path = source / "tokenizer.model"
    proto = sentencepiece_model_pb2.ModelProto.FromString(path.read_bytes())
    proto.normalizer_spec.remove_extra_whitespaces = True
    path.write_bytes(proto.SerializeToString())


def add_token(source: Path) -> None:
    (source / "added_tokens.json").write_text(json.dumps({"<im_patch>": 300}))


def config_of(**changes: Any) -> Callable[[Path], None]:
    def change(source: Path) -> None:
        (source / "config.json").write_text(json.dumps(original_config() | changes))

    return change


def settings_of(**changes: Any) -> Callable[[Path], None]:
    def change(source: Path) -> None:
        path = source / "tokenizer_config.json"
        path.write_text(json.dumps(TOKENIZER_CONFIG | changes))

    return change


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (remove_pieces, r"no tokenizer\.model, which the original's tokenizer is"),
        (break_pieces, r"tokenizer\.model: is no SentencePiece model"),
        (drop_blanks, r"tokenizer\.model: .* has the ids .*, and the original's tokenizer gives"),
        (add_token, r"added tokens \['<im_patch>'\]: LLaVA-1\.5 has none"),
        (
            settings_of(add_bos_token=False),
            r"add_bos_token: False is no LLaVA-1\.5's; allowed: True",
        ),
        (settings_of(tokenizer_class="GPT2Tokenizer"), r"tokenizer_class: 'GPT2Tokenizer'"),
        (config_of(mm_use_im_start_end=True), r"mm_use_im_start_end: True"),
        (config_of(eos_token_id=3), r"eos_token_id: 3, but the tokenizer's is 2"),
    ],
)
def test_checkpoint_whose_inputs_would_be_others_is_refused(
    tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    source = small(tmp_path)
    damage(source)
    tower = OriginalLlava().save_tower(tmp_path / "clip")
    with pytest.raises(ConversionError, match=message):
        convert(source, tmp_path / "hub", vision_tower=tower)
    assert not (tmp_path / "hub").exists()


@pytest.mark.parametrize(("aspect", "by_hand"), [("pad", padded_by_hand), (None, cropped_by_hand)])
def test_converted_checkpoint_gives_the_original_s_pixels(
    tmp_path: Path, aspect: str | None, by_hand: Callable[[Image.Image], torch.Tensor]
) -> None:
    source = small(tmp_path)
    config_of(image_aspect_ratio=aspect)(source)
    convert(source, tmp_path / "hub", vision_tower=OriginalLlava().save_tower(tmp_path / "clip"))
    processor = AutoProcessor.from_pretrained(tmp_path / "hub", backend="pil")
    for width, height in ((80, 40), (40, 80), (64, 64)):
        noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
        image = Image.fromarray(noise)
        pixels = processor.image_processor(images=[image], return_tensors="pt")["pixel_values"]
        torch.testing.assert_close(pixels, by_hand(image), rtol=0, atol=1e-5)


def test_preprocessing_of_the_given_tower_is_taken_over_or_refused(tmp_path: Path) -> None:
    source = small(tmp_path)
    tower = OriginalLlava().save_tower(tmp_path / "clip")
    square = {"height": 32, "width": 32}
    own = {"size": {"shortest_edge": 32}, "crop_size": square, "image_mean": [0.5, 0.25, 0.125]}
    CLIPImageProcessorPil(**own).save_pretrained(tower)
    convert(source, tmp_path / "hub", vision_tower=tower)
    written = AutoProcessor.from_pretrained(tmp_path / "hub", backend="pil").image_processor
    assert list(written.image_mean) == own["image_mean"]
    CLIPImageProcessorPil(**own, do_center_crop=False).save_pretrained(tower)
    with pytest.raises(ConversionError, match=r"leaves out \['do_center_crop'\]"):
        convert(source, tmp_path / "again", vision_tower=tower)


def test_converted_checkpoint_stops_greedily_where_the_original_does(tmp_path: Path) -> None:
    source = small(tmp_path)
    sampling = {"temperature": 0.9, "top_p": 0.6, "do_sample": True, "eos_token_id": 2}
    (source / "generation_config.json").write_text(json.dumps(sampling))
    convert(source, tmp_path / "hub", vision_tower=OriginalLlava().save_tower(tmp_path / "clip"))
    written = GenerationConfig.from_pretrained(tmp_path / "hub")
    assert (written.bos_token_id, written.eos_token_id, written.pad_token_id) == (1, 2, 0)
    assert not written.do_sample


def test_lora_checkpoint_on_a_base_that_loses_the_blank_after_an_image_is_refused(
    tmp_path: Path,
) -> None:
    tower = OriginalLlava().save_tower(tmp_path / "clip")
    base = tmp_path / "base"
    convert(small(tmp_path), base, vision_tower=tower)
    tokenizer = AutoTokenizer.from_pretrained(base)
    assert isinstance(tokenizer, PreTrainedTokenizerFast)
    tree = json.loads((base / "tokenizer.json").read_text())
    tree["normalizer"] = None
    tree["pre_tokenizer"] = {
        "type": "Metaspace",
        "replacement": "▁",
        "prepend_scheme": "first",
        "split": False,
    }
    (base / "tokenizer.json").write_text(json.dumps(tree))
    (base / "manifest.json").unlink()
    with pytest.raises(ConversionError, match=r"the base's tokenizer gives .* after an image"):
        convert(save_lora(tmp_path / "lora"), tmp_path / "adapter", base=str(base))
