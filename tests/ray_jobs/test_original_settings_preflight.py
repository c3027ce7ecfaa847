"""Starting one of the original's settings on a machine that has nothing of what it needs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ray_jobs.cluster.preflight import preflight
from safemirage.config.loading.load import load_config
from safemirage.config.train import TrainConfig

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "configs" / "train").glob("llava_v1.5_*.yaml"))
HEAVY = {"torch", "ray", "transformers", "mlflow"}


def start(path: Path, cwd: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    """`python -m ray_jobs.train` where there are no GPUs, no network and no data; stderr also lists every import."""
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    environment |= {
        "CUDA_VISIBLE_DEVICES": "",
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(cwd / "hub"),
        "SAFEMIRAGE_STORAGE": str(cwd / "storage"),
        "PYTHONPATH": str(ROOT),
    }
    return subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "ray_jobs.train", str(path), *overrides],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
    )


def messages(result: subprocess.CompletedProcess[str]) -> list[str]:
    return [line for line in result.stderr.splitlines() if not line.startswith("import time:")]


def imported(result: subprocess.CompletedProcess[str]) -> set[str]:
    lines = [line for line in result.stderr.splitlines() if line.startswith("import time:")]
    return {line.rpartition("|")[2].strip().split(".")[0] for line in lines}


def test_original_settings_are_ten_files() -> None:
    assert len(FILES) == 10


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_original_settings_list_everything_that_is_missing(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = load_config(TrainConfig, path, [f"model.path={tmp_path / 'none'}"])
    problems = preflight(config, nodes=[{"CPU": 2.0}])
    named = [problem.split(": ")[0] for problem in problems]
    assert sorted(set(named)) == [
        "data.forget",
        "data.image_folder",
        "data.retain",
        "model.path",
        "workers",
    ]
    assert any("need 8 GPU, and the cluster has 0" in problem for problem in problems)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_original_settings_fit_eight_gpus(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = load_config(TrainConfig, path)
    (tmp_path / "data" / "images").mkdir(parents=True)
    for name in (config.data.retain, config.data.forget):
        assert name is not None
        (tmp_path / name).write_text("[]")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    local = load_config(TrainConfig, path, [f"model.path={tmp_path / 'model'}"])
    assert preflight(local, nodes=[{"CPU": 8.0, "GPU": 8.0}]) == []


def test_starting_a_setting_without_anything_fails_at_once_with_the_list(tmp_path: Path) -> None:
    result = start(ROOT / "configs" / "train" / "llava_v1.5_7b_npo_full.yaml", tmp_path)
    assert result.returncode == 2
    text = "\n".join(messages(result))
    for part in (
        "need 8 GPU, and the cluster has 0",
        "'llava-hf/llava-1.5-7b-hf' is not in the hub's cache",
        f"data.retain: '{tmp_path}/data/train_retain_mixed.json' is no file",
        f"data.forget: '{tmp_path}/data/train_forget.json' is no file",
        f"data.image_folder: '{tmp_path}/data/images' is no folder",
    ):
        assert part in text
    assert "Traceback" not in text
    assert imported(result) & HEAVY == set()


def test_starting_a_bad_config_fails_before_anything_heavy_is_imported(tmp_path: Path) -> None:
    path = ROOT / "configs" / "train" / "llava_v1.5_7b_npo_full.yaml"
    result = start(path, tmp_path, "method.alpha=1", "optim.lr=1")
    assert result.returncode == 2
    lines = messages(result)
    keys = [line.removeprefix("error: ").split(": ")[1] for line in lines]
    assert keys == ["method.alpha", "optim.lr"]
    assert "yaml" in imported(result)
    assert imported(result) & HEAVY == set()
