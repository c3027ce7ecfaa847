"""The original's two ways, as presets that end in the export's processor."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor

from safemirage.config.loading.load import ConfigError
from safemirage.config.model import ModelConfig, Presets
from safemirage.models.export import ExportRecord, write_export
from safemirage.models.families import LLAVA
from safemirage.models.images import read_image
from safemirage.models.loading import load_for_inference, load_for_training
from safemirage.models.manifest import file_digests, processor_digest, weights_digest
from safemirage.models.processor import write_view
from safemirage.models.prompts import Prompter
from tests.models.originals import cropped_by_hand, padded_by_hand
from tests.tiny import make_tiny_llava, tiny_image
from tests.tiny_families import make_tiny_member


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_llava(tmp_path_factory.mktemp("base") / "tiny")


def picture(size: tuple[int, int]) -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(noise)


def prompter(base: Path, **presets: Any) -> Prompter:
    return Prompter(load_for_inference(base, presets=Presets(**presets)).processor)


@pytest.mark.parametrize("size", [(80, 40), (40, 80), (64, 64), (33, 57)])
def test_pad_gives_the_pixels_of_the_original_s_training(base: Path, size: tuple[int, int]) -> None:
    pixels = prompter(base, image_preprocessing="pad").pixels(picture(size))["pixel_values"]
    torch.testing.assert_close(pixels, padded_by_hand(picture(size)), rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [(80, 40), (64, 64)])
def test_crop_gives_the_pixels_of_the_original_s_evaluation(
    base: Path, size: tuple[int, int]
) -> None:
    pixels = prompter(base, image_preprocessing="crop").pixels(picture(size))["pixel_values"]
    torch.testing.assert_close(pixels, cropped_by_hand(picture(size)), rtol=0, atol=1e-5)
    as_saved = prompter(base).pixels(picture(size))["pixel_values"]
    assert torch.equal(pixels, as_saved)


def test_templates_of_the_original_differ_in_one_word(base: Path) -> None:
    user, human = (
        prompter(base, template=name).prompt("q?", has_image=True)
        for name in ("vicuna_v1", "llava_v1")
    )
    assert user == (
        "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, "
        "detailed, and polite answers to the user's questions. USER: <image>\nq? ASSISTANT:"
    )
    assert human == user.replace("user", "human")


def test_presets_are_written_into_the_export_and_change_its_processor_digest(
    base: Path, tmp_path: Path
) -> None:
    config = ModelConfig(path=str(base), template="llava_v1", image_preprocessing="pad")
    loaded = load_for_training(config)
    record = ExportRecord(
        run_id="r", identity="1", method="sft", base=None, config={}, metrics={}, git_commit=None
    )
    manifest = write_export(
        tmp_path / "export",
        model=loaded.model,
        processor=loaded.processor,
        state_dict=None,
        family=LLAVA,
        record=record,
    )
    assert manifest.processor_digest != processor_digest(base)
    image = picture((80, 40))
    read_again = Prompter(load_for_inference(tmp_path / "export").processor)
    assert "curious human" in read_again.prompt("q", has_image=False)
    pixels = read_again.pixels(image)["pixel_values"]
    torch.testing.assert_close(pixels, padded_by_hand(image), rtol=0, atol=1e-5)
    plain = AutoProcessor.from_pretrained(tmp_path / "export", backend="pil")
    by_plain = plain.image_processor(images=[image], return_tensors="pt")["pixel_values"]
    assert torch.equal(by_plain, pixels)
    settings = json.loads((tmp_path / "export" / "preprocessor_config.json").read_text())
    assert settings["do_pad"] is True


def test_presets_at_loading_change_the_digest_that_answers_are_kept_by(base: Path) -> None:
    chosen: list[dict[str, Any]] = [
        {},
        {"template": "vicuna_v1"},
        {"template": "llava_v1"},
        {"image_preprocessing": "pad"},
        {"image_preprocessing": "pad", "template": "llava_v1"},
    ]
    digests = [
        load_for_inference(base, presets=Presets(**presets)).processor_digest for presets in chosen
    ]
    assert len(set(digests)) == len(chosen)
    assert digests[0] == processor_digest(base)


def test_pixels_digest_follows_the_preprocessing(base: Path) -> None:
    one, same, other = (
        prompter(base, image_preprocessing=name).pixels_digest for name in ("pad", "pad", "crop")
    )
    assert one == same != other


@pytest.mark.parametrize(
    ("presets", "message"),
    [
        (
            {"template": "vicuna_v1"},
            r"model\.template: 'vicuna_v1' is none of qwen2_vl's; allowed: processor",
        ),
        (
            {"image_preprocessing": "pad"},
            r"model\.image_preprocessing: 'pad', but qwen2_vl takes images of any shape",
        ),
    ],
)
def test_presets_that_a_family_does_not_have_are_refused(
    tmp_path: Path, presets: dict[str, Any], message: str
) -> None:
    folder = make_tiny_member(tmp_path / "qwen", "qwen2_vl")
    with pytest.raises(ConfigError, match=message):
        load_for_inference(folder, presets=Presets(**presets))


def test_preset_image_is_the_same_square_whatever_the_colour(base: Path) -> None:
    one = prompter(base, image_preprocessing="pad")
    shapes = {
        one.pixels(read_image(tiny_image("red", size)))["pixel_values"].shape
        for size in ((40, 36), (90, 20))
    }
    assert shapes == {(1, 3, 32, 32)}


def test_view_differs_from_its_folder_in_the_processor_alone(base: Path, tmp_path: Path) -> None:
    files = file_digests(base)
    chosen = load_for_inference(base, presets=Presets(image_preprocessing="pad")).processor
    view = tmp_path / "view"
    view.mkdir()
    write_view(base, chosen, view)
    assert file_digests(base) == files
    assert weights_digest(view) == weights_digest(base)
    assert not (view / "manifest.json").exists()
    image = picture((80, 40))
    pixels = Prompter(load_for_inference(view).processor).pixels(image)["pixel_values"]
    torch.testing.assert_close(pixels, padded_by_hand(image), rtol=0, atol=1e-5)
