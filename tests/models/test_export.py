import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from safemirage.config.model import LoraConfig, ModelConfig
from safemirage.models.export import (
    BaseModel,
    ExportError,
    ExportRecord,
    merge_export,
    read_manifest,
    verify_export,
    write_export,
)
from safemirage.models.families import LLAVA
from safemirage.models.images import read_image
from safemirage.models.loading import LoadedModel, load_for_inference, load_for_training
from safemirage.models.prompts import Prompter
from tests.tiny import build_tiny_llava, tiny_image


def record(base: BaseModel | None = None) -> ExportRecord:
    return ExportRecord(
        run_id="run-1",
        identity="1" * 64,
        method="sft",
        base=base,
        config={"optim": {"learning_rate": 0.1}},
        metrics={"retain/loss": 1.5},
        git_commit=None,
    )


def export_tiny(folder: Path, seed: int = 0, **options: Any) -> Path:
    tiny = build_tiny_llava(seed)
    arguments = {"state_dict": None, "record": record()} | options
    write_export(folder, model=tiny.model, processor=tiny.processor, family=LLAVA, **arguments)
    return folder


def logits(model: Any, processor: Any) -> torch.Tensor:
    prompter = Prompter(processor)
    text = prompter.prompt("what is it?", has_image=True)
    ids = torch.tensor([prompter.prompt_ids(text, image_size=(40, 36))])
    with torch.no_grad():
        output = model(input_ids=ids, **prompter.pixels(read_image(tiny_image("red"))))
    result: torch.Tensor = output.logits
    return result


def adapter_after_a_step(base: Path) -> LoadedModel:
    """A LoRA model whose adapters and projector have moved."""
    torch.manual_seed(0)
    loaded = load_for_training(
        ModelConfig(path=str(base), lora=LoraConfig(rank=2, alpha=4, dropout=0.0))
    )
    trained = [weight for weight in loaded.model.parameters() if weight.requires_grad]
    with torch.no_grad():
        for weight in trained:
            weight.add_(0.1 * torch.randn_like(weight))
    loaded.model.eval()
    return loaded


def export_adapter(folder: Path, base: Path, loaded: LoadedModel, **options: Any) -> Path:
    named = BaseModel(path=str(base), weights_digest=loaded.weights_digest)
    arguments = {"state_dict": None, "record": record(named)} | options
    write_export(
        folder, model=loaded.model, processor=loaded.processor, family=loaded.family, **arguments
    )
    return folder


def test_export_loaded_again_gives_the_same_logits(tmp_path: Path) -> None:
    tiny = build_tiny_llava()
    loaded = load_for_inference(export_tiny(tmp_path / "run-1"))
    torch.testing.assert_close(
        logits(loaded.model, loaded.processor), logits(tiny.model, tiny.processor), rtol=0, atol=0
    )


def test_export_weights_have_the_public_layout(tmp_path: Path) -> None:
    folder = export_tiny(tmp_path / "run-1")
    with safe_open(folder / "model.safetensors", "pt") as weights:
        names = set(weights.keys())
    assert names == {LLAVA.hub_name(name) for name in build_tiny_llava().model.state_dict()}
    assert {"preprocessor_config.json", "chat_template.jinja", "tokenizer.json"} <= {
        path.name for path in folder.iterdir()
    }


def test_export_of_consolidated_weights_writes_those_and_not_the_model_s(tmp_path: Path) -> None:
    trained = build_tiny_llava(seed=1).model
    folder = export_tiny(tmp_path / "run-1", state_dict=trained.state_dict())
    loaded = load_for_inference(folder)
    torch.testing.assert_close(
        logits(loaded.model, loaded.processor), logits(trained, loaded.processor), rtol=0, atol=0
    )


def test_export_of_incomplete_weights_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    weights = build_tiny_llava().model.state_dict()
    del weights["lm_head.weight"]
    with pytest.raises(ExportError, match=r"1 missing \['lm_head\.weight'\]"):
        export_tiny(tmp_path / "run-1", state_dict=weights)
    assert list(tmp_path.iterdir()) == []


def test_export_manifest_tells_where_the_model_comes_from(tmp_path: Path) -> None:
    folder = export_tiny(tmp_path / "run-1")
    manifest = verify_export(folder)
    assert (manifest.run_id, manifest.method, manifest.family) == ("run-1", "sft", "llava")
    assert manifest.config == {"optim": {"learning_rate": 0.1}}
    assert manifest.versions["transformers"].startswith("5.")
    assert manifest.files.keys() == {p.name for p in folder.iterdir()} - {"manifest.json"}
    assert load_for_inference(folder).weights_digest == manifest.weights_digest


def test_export_written_over_an_older_one_replaces_it_whole(tmp_path: Path) -> None:
    folder = export_tiny(tmp_path / "run-1", seed=0)
    first = read_manifest(folder).weights_digest
    (folder / "left-over.txt").write_text("from before")
    export_tiny(folder, seed=1)
    assert verify_export(folder).weights_digest != first
    assert [path.name for path in tmp_path.iterdir()] == ["run-1"]


def test_weights_digest_is_of_the_weights_and_not_of_the_run(tmp_path: Path) -> None:
    digests = [
        read_manifest(export_tiny(tmp_path / name, seed=seed)).weights_digest
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    ]
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "config.json").unlink(), r"config\.json is missing"),
        (lambda folder: (folder / "config.json").write_text("{}"), r"config\.json was changed"),
        (lambda folder: (folder / "extra.bin").touch(), r"extra\.bin is not listed"),
    ],
)
def test_export_that_was_tampered_with_is_refused(
    tmp_path: Path, damage: Any, message: str
) -> None:
    folder = export_tiny(tmp_path / "run-1")
    damage(folder)
    with pytest.raises(ExportError, match=message):
        load_for_inference(folder)


def test_manifest_of_a_folder_without_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"no manifest\.json"):
        read_manifest(tmp_path)


def test_manifest_with_an_unknown_key_is_refused(tmp_path: Path) -> None:
    folder = export_tiny(tmp_path / "run-1")
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"surprise": 1}))
    with pytest.raises(ExportError, match="surprise"):
        read_manifest(folder)


def test_adapter_export_loaded_again_gives_the_trained_logits(tmp_path: Path) -> None:
    base = export_tiny(tmp_path / "base")
    trained = adapter_after_a_step(base)
    folder = export_adapter(tmp_path / "adapter", base, trained)
    assert (folder / "adapter_model.safetensors").is_file()
    assert not (folder / "model.safetensors").exists()
    loaded = load_for_inference(folder)
    expected = logits(trained.model, trained.processor)
    torch.testing.assert_close(
        logits(loaded.model, loaded.processor), expected, rtol=1e-4, atol=1e-4
    )
    plain = load_for_inference(base)
    assert (logits(plain.model, plain.processor) - expected).abs().max() > 0.1


def test_adapter_export_of_consolidated_weights_writes_those(tmp_path: Path) -> None:
    base = export_tiny(tmp_path / "base")
    trained, fresh = (
        adapter_after_a_step(base),
        load_for_training(
            ModelConfig(path=str(base), lora=LoraConfig(rank=2, alpha=4, dropout=0.0))
        ),
    )
    weights = {name: tensor.clone() for name, tensor in trained.model.state_dict().items()}
    folder = export_adapter(tmp_path / "adapter", base, fresh, state_dict=weights)
    loaded = load_for_inference(folder)
    torch.testing.assert_close(
        logits(loaded.model, loaded.processor),
        logits(trained.model, trained.processor),
        rtol=1e-4,
        atol=1e-4,
    )


def test_adapter_export_digest_follows_its_base(tmp_path: Path) -> None:
    base = export_tiny(tmp_path / "base")
    trained = adapter_after_a_step(base)
    folder = export_adapter(tmp_path / "adapter", base, trained)
    manifest = verify_export(folder)
    assert manifest.weights_digest == load_for_inference(folder).weights_digest
    assert manifest.weights_digest != trained.weights_digest
    export_tiny(base, seed=1)
    with pytest.raises(ExportError, match=r"adapter was trained on .*put the original base back"):
        load_for_inference(folder)


def test_merge_export_is_a_full_export_with_the_adapter_s_logits(tmp_path: Path) -> None:
    base = export_tiny(tmp_path / "base")
    trained = adapter_after_a_step(base)
    folder = export_adapter(tmp_path / "adapter", base, trained)
    merged = merge_export(folder)
    assert merged == folder / "merged"
    assert verify_export(merged).run_id == verify_export(folder).run_id
    loaded = load_for_inference(merged)
    torch.testing.assert_close(
        logits(loaded.model, loaded.processor),
        logits(trained.model, trained.processor),
        rtol=1e-4,
        atol=1e-4,
    )
    before = read_manifest(merged).created_at, (merged / "model.safetensors").stat().st_mtime_ns
    merge_export(folder)
    assert before == (
        read_manifest(merged).created_at,
        (merged / "model.safetensors").stat().st_mtime_ns,
    )


def test_merge_export_of_a_full_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="no adapter"):
        merge_export(export_tiny(tmp_path / "run-1"))


def test_training_from_an_adapter_starts_where_it_ended(tmp_path: Path) -> None:
    base = export_tiny(tmp_path / "base")
    trained = adapter_after_a_step(base)
    folder = export_adapter(tmp_path / "adapter", base, trained)
    second = load_for_training(ModelConfig(path=str(folder), lora=LoraConfig(rank=2)))
    second.model.eval()
    torch.testing.assert_close(
        logits(second.model, second.processor),
        logits(trained.model, trained.processor),
        rtol=1e-4,
        atol=1e-4,
    )


def test_adapter_export_finds_a_base_that_was_named_by_a_relative_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = export_tiny(tmp_path / "base")
    trained = adapter_after_a_step(base)
    monkeypatch.chdir(tmp_path)
    export_adapter(tmp_path / "adapter", Path("base"), trained)
    monkeypatch.chdir("/")
    assert load_for_inference(tmp_path / "adapter").weights_digest != trained.weights_digest
