"""A model's utility by lmms-eval, in a process of its own, and its table beside safety.

The other side is a small module `lmms_eval` that takes the real one's options and writes a file of the real one's shape.
"""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from safemirage.evaluation.utility.lmms_eval import lmms_eval_command
from safemirage.models.manifest import read_manifest
from tests.cli.calling import run
from tests.evaluation.samples import sample_record, write_suite
from tests.evaluation.service import running_service
from tests.models.test_export import adapter_after_a_step, export_adapter, export_tiny
from tests.tiny import make_tiny_llava

pytestmark = [pytest.mark.processes, pytest.mark.model]

LMMS_EVAL = """
import argparse, json, os, sys
from pathlib import Path

parser = argparse.ArgumentParser()
for name in ("model", "model_args", "tasks", "output_path", "limit", "device"):
    parser.add_argument(f"--{name}")
given = parser.parse_args()
assert "HF_TOKEN" not in os.environ
assert os.environ["HUGGING_FACE_HUB_TOKEN"] == "secret"
print("Model Responding:   0%\\rModel Responding: 100%")
if given.device == "too-small":
    print("| ERROR | Error CUDA out of memory in generating\\x1b[0m")
if given.device == "raises":
    sys.exit(3)
if given.device != "silent":
    model = given.model_args.split("=")[1].split(",")[0]
    folder = Path(given.output_path) / "__".join(Path(model).parts[-2:])
    folder.mkdir(parents=True, exist_ok=True)
    scores = {"alias": given.tasks, "exact_match,none": 0.46, "exact_match_stderr,none": 0.02}
    tree = {
        "results": {given.tasks: scores},
        "n-samples": {given.tasks: {"original": 5000, "effective": int(given.limit)}},
        "config": {"model": given.model, "model_args": given.model_args},
        "model_name": model,
    }
    (folder / "20261129_015245_results.json").write_text(json.dumps(tree))
"""


@pytest.fixture(autouse=True)
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAFEMIRAGE_STORAGE", str(tmp_path / "storage"))
    monkeypatch.delenv("SAFEMIRAGE_STORE_URL", raising=False)
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture
def lmms_eval(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "site" / "lmms_eval"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(LMMS_EVAL)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    monkeypatch.setenv("HF_TOKEN", "secret")


def _evaluate(folder: Path, digest: str) -> None:
    """Leaves an evaluation of a model with these weights in the store."""
    with running_service({"weights_digest": digest}) as service:
        tree = {
            "name": "vlguard",
            "model": {"name": "openai", "url": service.url, "model": "m", "attempts": 1},
            "suite": str(write_suite(folder / "suite", [sample_record(name) for name in "ab"])),
            "judges": [{"name": "keywords"}],
        }
        config = folder / "evaluate.yaml"
        config.write_text(yaml.safe_dump(tree))
        assert run("evaluate", config) == 0


@pytest.mark.usefixtures("lmms_eval")
def test_utility_is_measured_and_joins_the_safety_of_the_same_weights(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export = export_tiny(tmp_path / "npo")
    digest = read_manifest(export).weights_digest
    _evaluate(tmp_path, digest)
    capsys.readouterr()
    assert run("utility", export, "--tasks", "textvqa_val", "--", "--limit", "100") == 0
    said = capsys.readouterr().out
    assert "Model Responding: 100%" in said
    results = Path(said.split("\n")[-2])
    assert results.is_relative_to(tmp_path / "storage" / "utility")

    assert run("utility-table", results, "--out", tmp_path / "u") == 0
    assert "±0.02" in capsys.readouterr().out
    (line,) = json.loads((tmp_path / "u" / "utility.json").read_text())
    assert (line["model"], line["weights"]) == ("npo", [digest])
    assert {row["metric"] for row in line["rows"]} >= {"asr"}
    (score,) = line["utility"]
    assert (score["task"], score["value"], score["n"]) == ("textvqa_val", 0.46, 100)
    assert "| npo |" in (tmp_path / "u" / "utility.md").read_text()
    assert r"\toprule" in (tmp_path / "u" / "utility.tex").read_text()

    results.write_text(results.read_text().replace("0.46", "0.96"))
    assert run("utility-table", results) == 2
    assert "is not the file that 20261129_015245_weights.json" in capsys.readouterr().err
    alone = results.rename(tmp_path / "x_results.json")
    assert run("utility-table", f"vlguard={alone}", "--out", tmp_path / "v") == 0
    (line,) = json.loads((tmp_path / "v" / "utility.json").read_text())
    assert (line["model"], line["weights"]) == ("vlguard", [digest])
    assert line["rows"]


@pytest.mark.usefixtures("lmms_eval")
@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("too-small", "the model failed at 1 questions"),
        ("raises", "ended with exit code 3"),
        ("silent", "wrote 0 result files"),
    ],
)
def test_what_lmms_eval_passes_over_is_a_failure(
    device: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--out", tmp_path / "out", "--", "--limit", "4", "--device", device]
    assert run("utility", make_tiny_llava(tmp_path / "model"), "--tasks", "x", *options) == 1
    assert message in capsys.readouterr().err
    assert not list((tmp_path / "out").rglob("*_weights.json"))


def test_utility_without_lmms_eval_says_how_to_install_it_and_what_would_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = make_tiny_llava(tmp_path / "model")
    arguments = [model, "--tasks", "a,b", "--out", tmp_path / "out"]
    options = ["--", "--model_args", "device_map=cpu", "--device", "cpu"]
    assert run("utility", *arguments, *options) == 2
    error = capsys.readouterr().err
    assert "pip install 'lmms_eval[video-legacy]'" in error
    command = (
        f"{sys.executable} -m lmms_eval --model llava_hf --model_args pretrained={model},device_map=cpu "
        f"--tasks a,b --output_path {tmp_path / 'out'} --device cpu"
    )
    assert command in error
    assert run("utility", *arguments, "--dry-run", *options) == 0
    assert capsys.readouterr().out == f"{command}\n"
    assert run("utility", *arguments, "--python", tmp_path / "none") == 2
    assert "none cannot be run" in capsys.readouterr().err


@pytest.mark.usefixtures("lmms_eval")
def test_an_adapter_is_measured_merged_and_known_by_both_digests(tmp_path: Path) -> None:
    base = make_tiny_llava(tmp_path / "base")
    export = export_adapter(tmp_path / "adapter", base, adapter_after_a_step(base))
    options = ["--out", tmp_path / "out", "--", "--limit", "4"]
    assert run("utility", export, "--tasks", "x", *options) == 0
    (record,) = (tmp_path / "out").rglob("*_weights.json")
    tree: dict[str, Any] = json.loads(record.read_text())
    merged = export / "merged"
    digests = [read_manifest(folder).weights_digest for folder in (export, merged)]
    assert tree["weights"] == digests
    assert f"pretrained={merged}" in tree["command"]


def test_utility_commands_name_what_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("utility-table", "nothing.json") == 2
    assert "nothing.json: cannot be read" in capsys.readouterr().err
    assert run("utility-table") == 2
    folder = tmp_path / "odd"
    folder.mkdir()
    assert run("utility", folder, "--tasks", "x", "--dry-run") == 2
    assert "no config.json" in capsys.readouterr().err
    (folder / "config.json").write_text('{"model_type": "blip"}')
    assert run("utility", folder, "--tasks", "x", "--dry-run") == 2
    assert "model_type 'blip' is no known family" in capsys.readouterr().err
    comma = make_tiny_llava(tmp_path / "a,b")
    assert run("utility", comma, "--tasks", "x", "--dry-run") == 2
    assert "cannot be told a path with ," in capsys.readouterr().err


@pytest.mark.parametrize(
    ("family", "kind"),
    [
        ("llava", "llava_hf"),
        ("llava_next", "llava_hf"),
        ("qwen2_vl", "qwen2_vl"),
        ("qwen2_5_vl", "qwen2_5_vl"),
    ],
)
def test_each_family_has_its_loader_in_lmms_eval(family: str, kind: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": family}))
    command = lmms_eval_command(tmp_path, "x", tmp_path / "out", python="python")
    assert command[command.index("--model") + 1] == kind
