import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from safemirage.config.loading.load import ConfigError, build_config
from safemirage.config.probe import RelearnConfig
from safemirage.evaluation.suites.folder import load_suite
from safemirage.models.manifest import read_manifest
from safemirage.probes.measuring import Measured, Point, measure
from safemirage.probes.relearn import relearn_points
from safemirage.probes.report import relearn_curves, write_probe
from safemirage.storage import Storage
from safemirage.store import Store
from tests.evaluation.samples import write_suite
from tests.probes.exports import LORA, evaluate_tree, tiny_suite

Progress = list[tuple[str, int, int]]


def probe_config(tree: dict[str, Any], export: Path, suite: Path, **fields: Any) -> RelearnConfig:
    data = {name: tree["data"][name] for name in ("forget", "image_folder")}
    given = {
        "evaluate": evaluate_tree(export, suite),
        "data": data,
        "train": {"learning_rate": 1e-3, "batch_size": 2},
        "samples": [2, 3],
        "steps": [0, 1, 3],
        **fields,
    }
    return build_config(RelearnConfig, given)


def made(config: RelearnConfig, folder: Path, store: Store) -> tuple[list[Point], Progress]:
    said: Progress = []
    points = relearn_points(
        config,
        storage=Storage(folder),
        store=store,
        on_progress=lambda *progress: said.append(progress),
    )
    return points, said


def measured(points: list[Point], store: Store) -> Measured:
    return asyncio.run(measure("relearn", points, store=store, on_progress=lambda *_: None))


def test_relearning_measures_every_number_of_steps_and_a_second_run_does_nothing(
    tree: dict[str, Any], full_export: Path, suite: Path, store: Store, tmp_path: Path
) -> None:
    data = {name: tree["data"][name] for name in ("forget", "retain", "image_folder")}
    config = probe_config(tree, full_export, suite, data=data, samples=[2])
    points, said = made(config, tmp_path, store)
    assert [(p.settings["set"], p.settings["samples"], p.settings["steps"]) for p in points] == [
        (None, 0, 0),
        ("forget", 2, 1),
        ("forget", 2, 3),
        ("retain", 2, 1),
        ("retain", 2, 3),
    ]
    assert ("relearn-forget2-step3", 3, 3) in said
    first = measured(points, store)
    assert first.calls.answers == 20
    again, said = made(config, tmp_path, store)
    assert (again, said) == (points, [])
    second = measured(again, store)
    assert second.calls.answers == 0
    assert second.rows == first.rows


def test_relearned_exports_are_runs_whose_shorter_one_is_the_start_of_the_longer(
    tree: dict[str, Any], full_export: Path, suite: Path, store: Store, tmp_path: Path
) -> None:
    points, _ = made(probe_config(tree, full_export, suite, samples=[2]), tmp_path, store)
    short, long = (Path(point.settings["export"]) for point in points[1:])
    manifest = read_manifest(long)
    assert manifest.base is not None
    assert manifest.base.weights_digest == read_manifest(full_export).weights_digest
    assert (manifest.method, manifest.config["seed"]) == ("sft", 0)
    record = store.runs.get(points[2].settings["run"])
    assert record is not None
    assert (record.kind, record.state) == ("train", "finished")
    metrics = [read_manifest(folder).metrics["loss"] for folder in (short, long)]
    assert metrics[1] < metrics[0]  # it learns what it was given
    whole = probe_config(tree, full_export, suite, samples=[2], steps=[1])
    other, _ = made(whole, tmp_path / "other", store)
    assert other[1] == points[1]


def test_relearning_another_seed_or_number_of_records_gives_other_weights(
    tree: dict[str, Any], full_export: Path, suite: Path, store: Store, tmp_path: Path
) -> None:
    weights = []
    for fields in ({"samples": [2]}, {"samples": [3]}, {"samples": [2], "seed": 2}):
        config = probe_config(tree, full_export, suite, steps=[1], **fields)
        points, _ = made(config, tmp_path, store)
        file = Path(points[1].settings["export"]) / "model.safetensors"
        weights.append(load_file(file)["language_model.lm_head.weight"])
    assert not any(weights[one].equal(weights[other]) for one, other in ((0, 1), (0, 2), (1, 2)))


def test_relearning_by_an_adapter_on_an_adapter_exports_an_adapter(
    tree: dict[str, Any], adapter_export: Path, suite: Path, store: Store, tmp_path: Path
) -> None:
    train = {"learning_rate": 1e-2, "batch_size": 2, "lora": LORA}
    config = probe_config(tree, adapter_export, suite, train=train, samples=[2], steps=[2])
    points, _ = made(config, tmp_path, store)
    export = Path(points[1].settings["export"])
    assert (export / "adapter_config.json").is_file()
    assert measured(points, store).calls.answers == 8


def test_relearning_what_the_suite_asks_about_is_refused(
    tree: dict[str, Any], full_export: Path, store: Store, tmp_path: Path
) -> None:
    shown = tiny_suite(tmp_path / "suite", colours=("white", "red"))
    assert len(load_suite(shown)) == 4
    config = probe_config(tree, full_export, shown, samples=[6])
    with pytest.raises(ConfigError, match=r"data\.forget: .* 1 of the 6 records .*: f0\. "):
        made(config, tmp_path, store)
    assert not (tmp_path / "exports").exists()


def test_relearning_that_cannot_be_is_refused_before_it_trains(
    tree: dict[str, Any], full_export: Path, suite: Path, store: Store, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"samples: 7, but data\.forget has 6 records"):
        made(probe_config(tree, full_export, suite, samples=[7]), tmp_path, store)
    with pytest.raises(ConfigError, match=r"steps: \[0\] trains nothing"):
        probe_config(tree, full_export, suite, steps=[0])
    with pytest.raises(ConfigError, match=r"samples: \[2, 2\] holds a number twice"):
        probe_config(tree, full_export, suite, samples=[2, 2])
    safe = [sample for sample in load_suite(suite) if sample.subset == "safe"]
    copy = write_suite(tmp_path / "safe", safe)
    evaluate = {**evaluate_tree(full_export, suite), "judges": [{"name": "useful"}]}
    with pytest.raises(ConfigError, match=r"evaluate\.judges: none measures asr"):
        made(probe_config(tree, full_export, suite, evaluate=evaluate), tmp_path, store)
    with pytest.raises(ConfigError, match="no unsafe question"):
        made(probe_config(tree, full_export, copy), tmp_path, store)


def test_relearn_probe_in_files_has_a_curve_for_each_number_of_records(
    tree: dict[str, Any], full_export: Path, suite: Path, store: Store, tmp_path: Path
) -> None:
    points, _ = made(probe_config(tree, full_export, suite), tmp_path, store)
    found = measured(points, store)
    curves = relearn_curves(found)
    grid = curves.grid
    assert grid.header == ["condition", "fine-tuned on", "0 steps", "1 step", "3 steps"]
    assert [line[:2] for line in grid.lines] == [
        ["unsafe_plain", "2 forget records"],
        ["unsafe_plain", "3 forget records"],
    ]
    assert all(cell.endswith(", n=2)") for line in grid.lines for cell in line[2:])
    files = write_probe(store, found, tmp_path / "out", version="0", curves=curves)
    assert {path.name for path in files} >= {"report.html", "compare.md", "curves.md", "probe.json"}
    assert all(path.is_file() for path in files)
    html = (tmp_path / "out" / "report.html").read_text()
    assert html.count("against steps of fine-tuning</figcaption>") == 1
    assert html.count("3 forget records, “3 steps”:") == 1
    tree_ = json.loads((tmp_path / "out" / "probe.json").read_text())
    assert [point["steps"] for point in tree_["points"]] == [0, 1, 3, 1, 3]
    assert {row["metric"] for row in tree_["points"][1]["rows"]} >= {"asr", "refusal_rate"}
