"""What a run is told to be lacking, without a cluster."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ray_jobs.cluster.capacity import GPU_MEMORY
from ray_jobs.cluster.preflight import local_node, preflight
from safemirage.config.loading.load import build_config, dump_yaml
from safemirage.config.train import TrainConfig
from tests.cli.calling import run
from tests.tiny import make_tiny_llava

HEAD = {"CPU": 4.0}


@pytest.fixture
def tree(tmp_path: Path) -> dict[str, Any]:
    """Nothing is missing; the files are never read."""
    (tmp_path / "model").mkdir()
    (tmp_path / "images").mkdir()
    for name in ("model/config.json", "retain.json", "forget.json"):
        (tmp_path / name).write_text("{}")
    return {
        "model": {"path": str(tmp_path / "model")},
        "data": {
            "retain": str(tmp_path / "retain.json"),
            "forget": str(tmp_path / "forget.json"),
            "image_folder": str(tmp_path / "images"),
        },
        "method": {"name": "npo"},
        "optim": {"learning_rate": 1e-3, "batch_size": 8, "steps": 1},
        "workers": {"count": 2},
    }


def problems(tree: dict[str, Any], nodes: list[dict[str, float]]) -> list[str]:
    return preflight(build_config(TrainConfig, tree), nodes=nodes)


def test_preflight_with_everything_there_says_nothing(tree: dict[str, Any]) -> None:
    assert problems(tree, [HEAD]) == []


def test_preflight_lists_all_that_is_missing_at_once(tree: dict[str, Any]) -> None:
    tree["workers"] = {"count": 8, "gpu": True}
    tree["model"]["path"] = "./nowhere"
    tree["data"] = {"retain": "no.json", "forget": "none.json", "image_folder": "images"}
    found = problems(tree, [HEAD])
    keys = [line.split(":")[0] for line in found]
    assert keys == [
        "workers",
        "workers",
        "model.path",
        "data.retain",
        "data.forget",
        "data.image_folder",
    ]
    assert "need 8 CPU, and the cluster has 4" in found[0]
    assert "need 8 GPU, and the cluster has 0" in found[1]


def test_preflight_counts_all_nodes(tree: dict[str, Any]) -> None:
    tree["workers"] = {"count": 8, "gpu": True}
    assert problems(tree, [{"CPU": 8, "GPU": 4}, {"CPU": 8, "GPU": 4}]) == []


def test_preflight_worker_larger_than_any_node_is_named(tree: dict[str, Any]) -> None:
    tree["workers"] = {"count": 1, "cpus": 6}
    (line,) = problems(tree, [HEAD, HEAD])
    assert "need CPU 6 each on one node, and the nodes have CPU 4; CPU 4" in line
    config = build_config(TrainConfig, tree)
    assert preflight(config, nodes=[HEAD], is_trial=True) == []  # a larger node may come back


def test_preflight_folder_without_a_model_is_named(tree: dict[str, Any], tmp_path: Path) -> None:
    tree["model"]["path"] = str(tmp_path / "images")
    (line,) = problems(tree, [HEAD])
    assert line.startswith("model.path")
    assert "no config.json" in line


def test_preflight_hub_id_outside_the_cache_and_offline_is_named(
    tree: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    tree["model"]["path"] = "nobody/nothing"
    (line,) = problems(tree, [HEAD])
    assert "HF_HUB_OFFLINE" in line


def test_preflight_hub_that_cannot_be_reached_is_named(
    tree: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    tree["model"]["path"] = "nobody/nothing"
    (line,) = problems(tree, [HEAD])
    assert "http://127.0.0.1:9 cannot be reached" in line


@pytest.mark.parametrize(
    ("branch", "key"),
    [
        ({"optim": {"learning_rate": 1e-3, "batch_size": 9, "steps": 1}}, "optim.batch_size"),
        ({"method": {"name": "npo", "reduction": "mean", "group_size": 3}}, "method.group_size"),
    ],
)
def test_preflight_batch_that_cannot_be_divided_is_named(
    tree: dict[str, Any], branch: dict[str, Any], key: str
) -> None:
    (line,) = problems({**tree, **branch}, [HEAD])
    assert line.startswith(key)


def test_preflight_run_that_cannot_fit_the_gpus_is_refused_with_the_numbers(
    tree: dict[str, Any], tmp_path: Path
) -> None:
    make_tiny_llava(tmp_path / "model", seed=0)
    tree["workers"] = {"count": 2, "gpu": True}
    gpus = {"CPU": 4.0, "GPU": 2.0, GPU_MEMORY: 1e6}
    (line,) = problems(tree, [gpus])
    assert line.startswith("memory: a worker needs at least")
    assert "the smallest GPU has 1.0 MiB" in line
    assert "model.dtype=bfloat16" in line
    assert problems(tree, [{**gpus, GPU_MEMORY: 80e9}]) == []
    assert problems(tree, [{"CPU": 4.0, "GPU": 2.0}]) == []


def test_train_command_estimate_prints_every_part_and_starts_nothing(
    tree: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_tiny_llava(tmp_path / "model", seed=0)
    file = tmp_path / "run.yaml"
    file.write_text(dump_yaml(build_config(TrainConfig, tree)))
    assert run("train", file, "--estimate", "workers.count=4") == 0
    printed = capsys.readouterr().out
    for part in ("parameters", "weights", "gradients", "optimizer", "activations of 16 tokens"):
        assert part in printed
    assert "activations of 2048 tokens" in printed
    assert "\nverdict: " in printed


@pytest.mark.parametrize(
    ("path", "message"),
    [("miniature:base", "is built by its run"), ("./nothere", "holds no model")],
)
def test_train_command_estimate_of_no_model_says_so(
    tree: dict[str, Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    path: str,
    message: str,
) -> None:
    make_tiny_llava(tmp_path / "model", seed=0)
    file = tmp_path / "run.yaml"
    file.write_text(dump_yaml(build_config(TrainConfig, tree)))
    assert run("train", file, "--estimate", f"model.path={path}") == 2
    assert message in capsys.readouterr().err


def test_train_command_estimate_names_a_missing_model_before_anything_heavy_is_imported(
    tree: dict[str, Any], tmp_path: Path
) -> None:
    file = tmp_path / "run.yaml"
    make_tiny_llava(tmp_path / "model", seed=0)
    file.write_text(dump_yaml(build_config(TrainConfig, tree)))
    code = (
        "import sys; from tests.cli.calling import run\n"
        f"assert run('train', {str(file)!r}, '--estimate', 'model.path=./nothere') == 2\n"
        "print(sorted({'torch', 'transformers', 'scipy.stats', 'ray', 'mlflow'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["[]"]
    assert "holds no model" in done.stderr


def test_preflight_takes_parts_of_the_miniature_for_granted(tree: dict[str, Any]) -> None:
    tree["model"]["path"] = "miniature:base"
    tree["data"] = {"retain": "miniature:retain.json", "forget": "miniature:forget.json"}
    assert problems(tree, [HEAD]) == []


def test_local_node_counts_visible_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,3")
    assert local_node()["GPU"] == 2
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert local_node()["GPU"] == 0


def test_train_command_without_gpus_exits_2_before_ray_starts(
    tree: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("SAFEMIRAGE_STORAGE", str(tmp_path / "storage"))
    file = tmp_path / "run.yaml"
    file.write_text(dump_yaml(build_config(TrainConfig, tree)))
    assert run("train", file, "workers.gpu=true") == 2
    assert "need 2 GPU, and the cluster has 0" in capsys.readouterr().err


def test_train_command_with_a_bad_key_names_it_without_importing_torch_or_ray(
    tree: dict[str, Any], tmp_path: Path
) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(dump_yaml(build_config(TrainConfig, tree)))
    code = (
        "import sys; from tests.cli.calling import run; code = run('train', *sys.argv[1:]);"
        "print([m for m in ('torch', 'ray', 'mlflow', 'transformers') if m in sys.modules]);"
        "sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(file), "method.bta=0.2"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "method.bta" in done.stderr
    assert done.stdout.strip() == "[]"
