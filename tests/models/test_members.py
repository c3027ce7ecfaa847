"""A small random member of each family goes through the whole chain: prompt, training step, export, answers."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForImageTextToText, AutoProcessor

from safemirage.config.generators import DecodingConfig
from safemirage.data.llava import LlavaRecord, TurnImage, read_llava
from safemirage.evaluation.generators.transformers import TransformersGenerator
from safemirage.evaluation.types import ImageInput, Request
from safemirage.methods.forward import supervised_logps
from safemirage.models.families import FAMILIES
from safemirage.models.images import read_image
from safemirage.models.loading import load_for_inference
from safemirage.models.manifest import verify_export
from safemirage.models.prompts import Prompter
from safemirage.training.job import TrainJob
from safemirage.training.loop import train
from safemirage.training.samples.batches import tokenize
from tests.tiny import tiny_image
from tests.tiny_families import TINY_MEMBERS, make_tiny_member
from tests.tiny_run import make_tiny_run, tiny_train_config

SIZES = ((40, 36), (32, 32), (75, 50), (20, 90))
COLOURS = ("red", "blue", "green")

families = pytest.mark.parametrize("family", TINY_MEMBERS)


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bases")
    return {family: make_tiny_member(folder / family, family) for family in TINY_MEMBERS}


def train_once(folder: Path, base: Path, **branches: Any) -> tuple[Path, dict[str, float]]:
    """One optimizer step on the tiny sets; the export, and the step's metrics."""
    tree = make_tiny_run(folder / "data")
    optim = {"steps": 1, "warmup_ratio": 0.0, "batch_size": 2, "learning_rate": 1e-2}
    model = {"path": str(base), **branches.pop("model", {})}
    config = tiny_train_config(tree, optim=optim, model=model, **branches)
    job = TrainJob(
        config=config,
        run_id="member-0",
        identity="0",
        export=folder / "export",
        cache=folder / "cache",
    )
    metrics = train(job, report=lambda _: None).metrics
    assert metrics["optim/gradient_norm"] > 0
    return job.export, metrics


def answers_by_transformers(folder: Path, requests: list[Request]) -> list[str]:
    """Plain transformers, nothing of ours: processor, template and model as the folder has them, one at a time."""
    processor = AutoProcessor.from_pretrained(folder, backend="pil")
    model = AutoModelForImageTextToText.from_pretrained(folder).eval()
    answers = []
    for request in requests:
        image = [{"type": "image"}] if request.image is not None else []
        messages = [
            {"role": "user", "content": [*image, {"type": "text", "text": request.question}]}
        ]
        text = processor.apply_chat_template(messages, add_generation_prompt=True)
        images = [read_image(request.image.data)] if request.image is not None else None
        inputs = processor(text=[text], images=images, return_tensors="pt")
        ids = model.generate(**inputs, max_new_tokens=16, do_sample=False)
        new_ids = ids[0, inputs["input_ids"].shape[1] :]
        answers.append(processor.tokenizer.decode(new_ids, skip_special_tokens=True).strip())
    return answers


def ask(folder: Path, requests: list[Request]) -> list[str]:
    generator = TransformersGenerator.load(folder)
    answers = asyncio.run(generator.generate(requests, DecodingConfig(max_new_tokens=16)))
    generator.close()
    return [answer.text for answer in answers]


def requests() -> list[Request]:
    seen = [
        Request(question=question, image=ImageInput(tiny_image(colour, size)))
        for question in ("what is it?", "go on, tell me all of it")
        for colour, size in zip((*COLOURS, "red"), SIZES, strict=True)
    ]
    return [*seen, Request(question="no picture here")]


def test_families_each_have_a_small_member() -> None:
    assert TINY_MEMBERS.keys() == FAMILIES.keys()


@families
def test_member_has_the_parts_that_its_description_names(family: str) -> None:
    member = TINY_MEMBERS[family]()
    described = member.family
    assert member.model.config.model_type == described.name
    layers = member.model.get_submodule(described.layers)
    assert len(layers) == 2  # type: ignore[arg-type]
    assert member.model.get_submodule(described.head) is member.model.get_output_embeddings()
    decoder = member.model.get_decoder()
    assert member.model.get_submodule(described.language) is decoder
    names = [name for name, _ in member.model.named_parameters()]
    assert any(name.startswith(f"{described.projector}.") for name in names)
    assert any(described.in_vision_tower(name) for name in names)


@families
def test_member_conversation_supervises_answers_and_end_tokens_only(family: str) -> None:
    processor = TINY_MEMBERS[family]().processor
    turns = [("what is it?", "a red car"), ("sure?", "yes, é")]
    tokens = Prompter(processor).conversation(turns, images=[(0, (40, 36))])
    supervised = processor.tokenizer.decode([label for label in tokens.labels if label != -100])
    end = processor.tokenizer.eos_token
    assert supervised.replace(" ", "") == f"aredcar{end}yes,é{end}"


@families
def test_member_batch_gives_the_logits_of_its_own_processor(
    family: str, bases: dict[str, Path], tmp_path: Path
) -> None:
    loaded = load_for_inference(bases[family])
    tree = make_tiny_run(tmp_path / "data")
    records = read_llava(tree["data"]["retain"], tree["data"]["image_folder"])
    folder = Path(tree["data"]["image_folder"])
    images = [TurnImage(folder / f"{name}.png", turn) for name, turn in (("red", 0), ("blue", 1))]
    records.append(LlavaRecord("several", tuple(images), (("this?", "red"), ("and it?", "blue"))))
    prompter = Prompter(loaded.processor)
    samples = tokenize(records, prompter, max_length=500)
    rows = range(len(samples))
    with torch.no_grad():
        batched = supervised_logps(loaded.model, samples.batch(rows, global_indices=rows))
        for row, record in enumerate(records):
            expected = _logp_by_processor(loaded, samples.samples[row].labels, record)
            assert batched[row].item() == pytest.approx(expected, rel=1e-4, abs=1e-3)


def _logp_by_processor(loaded: Any, labels: tuple[int, ...], record: Any) -> float:
    """What the model says of a record whose inputs the processor alone made."""
    messages = []
    for turn, (question, answer) in enumerate(record.turns):
        image = [{"type": "image"} for image in record.images if image.turn == turn]
        content = [*image, {"type": "text", "text": question}]
        messages.append({"role": "user", "content": content})
        messages.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
    text = loaded.processor.apply_chat_template(messages)
    images = [read_image(image.path) for image in record.images] or None
    inputs = loaded.processor(text=[text], images=images, return_tensors="pt")
    logps_TV = loaded.model(**inputs).logits[0].log_softmax(-1)
    return sum(
        logps_TV[place - 1, label].item() for place, label in enumerate(labels) if label != -100
    )


@families
def test_member_trained_by_npo_is_read_by_transformers_with_the_same_text(
    family: str, bases: dict[str, Path], tmp_path: Path
) -> None:
    export, _ = train_once(tmp_path, bases[family])
    assert verify_export(export).family == family
    _assert_public_layout(export, family)
    _assert_trained_parts(family, bases[family], export)
    given = ask(export, requests())
    assert given == answers_by_transformers(export, requests())
    assert len(set(given)) > 4
    assert given != ask(bases[family], requests())


def _assert_public_layout(export: Path, family: str) -> None:
    with safe_open(export / "model.safetensors", "pt") as weights:
        names = set(weights.keys())
    firsts = {
        "llava": {"language_model.model.", "language_model.lm_head.", "multi_modal_projector."},
        "llava_next": {"image_newline", "language_model.model.", "vision_tower.vision_model."},
        "llava_onevision": {"image_newline", "language_model.model.", "vision_tower.vision_model."},
        "idefics3": {"model.text_model.layers.", "model.vision_model.encoder.", "lm_head."},
        "smolvlm": {"model.text_model.layers.", "model.vision_model.encoder.", "lm_head."},
        "internvl": {"language_model.model.", "language_model.lm_head.", "vision_tower.encoder."},
        "qwen2_vl": {"model.layers.", "visual.merger."},
        "qwen2_5_vl": {"model.layers.", "visual.merger.", "lm_head."},
        "qwen3_vl": {"model.language_model.layers.", "model.visual.merger.", "lm_head."},
    }[family]
    for first in firsts:
        assert any(name.startswith(first) for name in names), first
    tied = family == "qwen2_vl"
    assert any("lm_head" in name for name in names) is not tied


def _assert_trained_parts(family: str, base: Path, export: Path) -> None:
    """All but the vision tower was trained, the projector wherever it lies."""
    described = FAMILIES[family]
    before, after = (load_for_inference(path).model for path in (base, export))
    pairs = zip(before.named_parameters(), after.named_parameters(), strict=True)
    changed = {name for (name, old), (_, new) in pairs if not torch.equal(old, new)}
    assert not any(described.in_vision_tower(name) for name in changed)
    assert any(name.startswith(f"{described.projector}.") for name in changed)
    assert any(name.startswith(f"{described.layers}.0.") for name in changed)


@families
def test_member_trained_by_lora_answers_as_the_trained_model(
    family: str, bases: dict[str, Path], tmp_path: Path
) -> None:
    lora = {"rank": 2, "alpha": 8.0, "dropout": 0.0, "merge": True}
    export, _ = train_once(tmp_path, bases[family], model={"lora": lora}, method={"name": "sft"})
    given = ask(export, requests())
    assert given == answers_by_transformers(export / "merged", requests())
    assert given != ask(bases[family], requests())
    with safe_open(export / "adapter_model.safetensors", "pt") as weights:
        names = {name.removeprefix("base_model.model.") for name in weights.keys()}  # noqa: SIM118
    described = FAMILIES[family]
    assert any(name.startswith(f"{described.projector}.") for name in names)
    assert not any(described.in_vision_tower(name) for name in names)


@families
def test_member_cut_in_two_by_rmu_has_the_cross_entropy_of_the_whole(
    family: str, bases: dict[str, Path], tmp_path: Path
) -> None:
    """RMU runs the retain batch to its hook layer and on from there: image positions must come along."""
    rmu = {"name": "rmu", "hook_layer": 0, "steering_coefficient": 2.0}
    _, whole = train_once(tmp_path / "sft", bases[family], method={"name": "sft"})
    _, cut = train_once(tmp_path / "rmu", bases[family], method=rmu)
    assert cut["retain/loss"] == pytest.approx(whole["retain/loss"], rel=1e-5)


def test_run_counts_its_truncated_samples(bases: dict[str, Path], tmp_path: Path) -> None:
    _, metrics = train_once(tmp_path, bases["llava"], model={"max_length": 80})
    # Bytes are tokens: the two longest forget records have 81 and 84.
    assert metrics["data/truncated_samples"] == 2.0
