from pathlib import Path

import pytest
import torch
from PIL import Image

from safemirage.data.llava import LlavaRecord, TurnImage
from safemirage.methods.method import Batch
from safemirage.models.processor import square_images
from safemirage.models.prompts import IGNORED, Prompter
from safemirage.training.job import SampleError
from safemirage.training.samples.batches import SampleSet, tokenize
from tests.tiny import IMAGE_TOKENS, build_tiny_llava, tiny_image, tiny_processor
from tests.tiny_families import TINY_MEMBERS


@pytest.fixture
def prompter() -> Prompter:
    return Prompter(tiny_processor())


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "red.png"
    path.write_bytes(tiny_image("red"))
    return path


def record(name: str, answer: str = "a red car", *, image: Path | None = None) -> LlavaRecord:
    images = () if image is None else (TurnImage(image),)
    return LlavaRecord(name, images, (("what is it?", answer),))


def make_set(records: list[LlavaRecord], prompter: Prompter, max_length: int = 300) -> SampleSet:
    return tokenize(records, prompter, max_length=max_length)


def whole_batch(samples: SampleSet) -> Batch:
    indices = range(len(samples))
    return samples.batch(indices, global_indices=indices)


def test_batch_of_unequal_samples_is_padded_right_and_masked(
    prompter: Prompter, image: Path
) -> None:
    samples = make_set([record("a", image=image), record("b", "no", image=image)], prompter)
    batch = whole_batch(samples)
    lengths = [len(sample.ids) for sample in samples.samples]
    ids, mask = batch.inputs["input_ids"], batch.inputs["attention_mask"]
    assert ids.shape == batch.labels_BT.shape == (2, max(lengths))
    assert mask.sum(1).tolist() == lengths
    assert ids[1, lengths[1] :].tolist() == [prompter.pad_token_id] * (lengths[0] - lengths[1])
    assert set(batch.labels_BT[1, lengths[1] :].tolist()) == {IGNORED}
    assert batch.image_mask_BT.sum(1).tolist() == [IMAGE_TOKENS, IMAGE_TOKENS]
    assert batch.inputs["pixel_values"].shape == (2, 3, 32, 32)


def test_batch_counts_are_those_of_the_whole_step(prompter: Prompter) -> None:
    samples = make_set([record("a", "abc"), record("b", "abcdef"), record("c", "x")], prompter)
    batch = samples.batch([1], global_indices=[0, 1, 2, 2])
    # A byte is a token; each answer has a space before it and an end token after it.
    assert batch.global_tokens == 5 + 8 + 3 + 3
    assert batch.global_samples == 4
    assert batch.labels_BT.ne(IGNORED).sum() == 8


def test_batch_token_count_matches_what_the_model_averages_over(
    prompter: Prompter, image: Path
) -> None:
    model = build_tiny_llava().model
    samples = make_set([record("a", image=image), record("b", "no", image=image)], prompter)
    batch = whole_batch(samples)
    with torch.no_grad():
        output = model(**batch.inputs, labels=batch.labels_BT)
    logps = output.logits[:, :-1].log_softmax(-1)
    targets = batch.labels_BT[:, 1:]
    chosen = logps.gather(-1, targets.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    total = -(chosen * targets.ne(IGNORED)).sum()
    torch.testing.assert_close(output.loss, total / batch.global_tokens)


def test_batch_cut_at_max_length_is_counted_and_keeps_its_start(prompter: Prompter) -> None:
    full = make_set([record("a", "a very long answer")], prompter)
    cut = make_set([record("a", "a very long answer"), record("b", "x")], prompter, 40)
    assert (full.num_truncated, cut.num_truncated) == (0, 1)
    assert cut.samples[0].ids == full.samples[0].ids[:40]


def test_tokenize_max_length_within_the_image_tokens_is_refused(
    prompter: Prompter, image: Path
) -> None:
    with pytest.raises(
        SampleError, match=r"a: model\.max_length=12 would cut into its image tokens"
    ):
        make_set([record("a", image=image)], prompter, 12)


def test_tokenize_names_every_sample_without_a_supervised_token(prompter: Prompter) -> None:
    records = [record("short"), LlavaRecord("long", (), (("q" * 80, "a"),)), record("fine")]
    with pytest.raises(
        SampleError, match=r"1 record\(s\).*\n  long: no supervised token"
    ) as caught:
        make_set(records, prompter, 60)
    assert "fine" not in str(caught.value)


def test_tokenize_names_a_record_whose_image_is_too_wide_for_the_family(tmp_path: Path) -> None:
    wide, fine = tmp_path / "wide.png", tmp_path / "fine.png"
    wide.write_bytes(tiny_image("red", (4200, 20)))
    fine.write_bytes(tiny_image("red"))
    qwen = Prompter(TINY_MEMBERS["qwen2_vl"]().processor)
    records = [record("fine", image=fine), record("wide", image=wide)]
    with pytest.raises(
        SampleError, match=r"1 record\(s\).*\n  wide: an image of 4200 x 20 cannot be prepared"
    ):
        make_set(records, qwen, 400)


def test_tokenize_names_a_record_whose_text_is_not_unicode(prompter: Prompter) -> None:
    half = LlavaRecord("half", (), (("what is it?", "a \ud83d"),))
    with pytest.raises(SampleError, match="half: the text has half of a character at place 2"):
        make_set([record("fine"), half], prompter)


def test_tokenize_names_a_record_whose_image_cannot_be_read(
    prompter: Prompter, tmp_path: Path
) -> None:
    with pytest.raises(SampleError, match=r"gone: image .*nowhere\.png cannot be read"):
        make_set([record("gone", image=tmp_path / "nowhere.png")], prompter)


def test_tokenize_names_a_record_whose_image_was_cut_off(
    prompter: Prompter, tmp_path: Path
) -> None:
    for suffix, cut in ((".jpg", 300), (".png", 60)):
        path = tmp_path / f"cut{suffix}"
        Image.effect_noise((200, 200), 80).save(path)
        path.write_bytes(path.read_bytes()[:-cut])
        with pytest.raises(SampleError, match=f"r: image .*cut\\{suffix} cannot be read"):
            make_set([record("r", image=path)], prompter)


def test_batch_of_text_in_a_set_with_images_runs_the_vision_tower_without_changing_a_logit(
    prompter: Prompter, image: Path
) -> None:
    model = build_tiny_llava().model
    mixed = make_set([record("text"), record("seen", image=image)], prompter)
    alone = make_set([record("text")], prompter)
    with_blank, plain = mixed.batch([0], global_indices=[0]), whole_batch(alone)
    assert "pixel_values" in with_blank.inputs
    assert "pixel_values" not in plain.inputs
    assert not with_blank.image_mask_BT.any()
    length = plain.labels_BT.shape[1]
    with torch.no_grad():
        logits = model(**with_blank.inputs).logits[:, :length]
        expected = model(**plain.inputs).logits
    torch.testing.assert_close(logits, expected)


def test_sample_digests_follow_text_and_image_content(
    prompter: Prompter, image: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.png"
    other.write_bytes(tiny_image("blue"))
    copied = tmp_path / "copy.png"
    copied.write_bytes(image.read_bytes())
    records = [
        record("a", image=image),
        record("b", image=copied),
        record("c", image=other),
        record("d", "a blue car", image=image),
    ]
    first, same, other_image, other_text = make_set(records, prompter).sample_digests
    assert first == same
    assert len({first, other_image, other_text}) == 3


def test_sample_digests_follow_the_image_preprocessing(image: Path, tmp_path: Path) -> None:
    padded = tiny_processor()
    padded.image_processor = square_images(padded.image_processor, pad=True)
    records = [record("seen", image=image), record("text")]
    cropped_digests = make_set(records, Prompter(tiny_processor())).sample_digests
    padded_digests = make_set(records, Prompter(padded)).sample_digests
    assert cropped_digests[0] != padded_digests[0]
    assert cropped_digests[1] == padded_digests[1]


def test_tokenize_of_several_turns_truncates_behind_the_image_tokens(
    prompter: Prompter, image: Path
) -> None:
    turns = (("what is it?", "a red car"), ("and the colour?", "red, very red indeed"))
    full = make_set([LlavaRecord("a", (TurnImage(image),), turns)], prompter)
    length = len(full.samples[0].ids) - 5
    cut = make_set([LlavaRecord("a", (TurnImage(image),), turns)], prompter, length)
    assert (full.num_truncated, cut.num_truncated) == (0, 1)
    assert cut.samples[0].ids.count(prompter.image_token_id) == IMAGE_TOKENS
    first, second = (
        prompter.decode([x for x in s.labels if x != IGNORED])
        for s in (full.samples[0], cut.samples[0])
    )
    assert first.startswith("a red car")
    assert second.startswith("a red car")
    assert len(second) < len(first)
    assert cut.lengths == (length,)
