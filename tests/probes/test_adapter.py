import asyncio
from pathlib import Path
from typing import Any

import pytest
import torch

from safemirage.config.evaluate import EvaluateConfig
from safemirage.config.loading.load import ConfigError, build_config
from safemirage.config.probe import AdapterProbeConfig
from safemirage.config.weights import WeightsConfig
from safemirage.evaluation.generators.asking import ModelCalls
from safemirage.evaluation.run.process import run_evaluation
from safemirage.models.export import merge_export
from safemirage.models.loading import load_for_inference
from safemirage.probes.measuring import measure
from safemirage.probes.weights import adapter_points
from safemirage.store import Store
from tests.probes.exports import evaluate_tree


def probe_config(export: Path, suite: Path, **fields: Any) -> AdapterProbeConfig:
    return build_config(AdapterProbeConfig, {"evaluate": evaluate_tree(export, suite), **fields})


def weights(folder: Path, scale: float) -> dict[str, torch.Tensor]:
    loaded = load_for_inference(folder, changes=WeightsConfig(adapter_scale=scale))
    return dict(loaded.model.state_dict())


@pytest.mark.parametrize("scale", [0.0, 0.25, 2.0])
def test_adapter_at_a_scale_lies_on_the_line_from_base_to_export(
    full_export: Path, adapter_export: Path, scale: float
) -> None:
    base, trained = weights(full_export, 1.0), weights(adapter_export, 1.0)
    found = weights(adapter_export, scale)
    moved = [name for name in base if not torch.equal(base[name], trained[name])]
    assert any("language_model" in name for name in moved)
    assert any("multi_modal_projector" in name for name in moved)
    for name, value in found.items():
        torch.testing.assert_close(value, torch.lerp(base[name], trained[name], scale))


def test_adapter_probe_pairs_every_strength_with_the_adapter_as_trained(
    adapter_export: Path, suite: Path, store: Store
) -> None:
    points = adapter_points(probe_config(adapter_export, suite, scales=[0.5, 1.5]))
    assert [point.settings["adapter_scale"] for point in points] == [1.0, 1.5, 0.5, 0.0]
    progress: dict[str, int] = {}
    measured = asyncio.run(
        measure("adapter", points, store=store, on_progress=lambda n, d, _: progress.update({n: d}))
    )
    assert measured.calls.answers == 16
    assert progress == {point.name: 4 for point in points}
    asr = [change for change in measured.comparison.changes if change.metric == "asr"]
    assert [change.second for change in asr] == [point.name for point in points[1:]]
    assert all(change.p_value is not None and change.n == 2 for change in asr)
    keys = [one["generator"] for one in measured.tree()["points"]]
    assert [key.get("adapter_scale") for key in keys] == [None, "1.5", "0.5", None]
    again = asyncio.run(measure("adapter", points, store=store, on_progress=lambda *_: None))
    assert again.calls.answers == 0
    assert again.rows == measured.rows


def test_adapter_that_is_off_is_its_base_to_the_store(
    full_export: Path, adapter_export: Path, suite: Path, store: Store
) -> None:
    base = build_config(EvaluateConfig, evaluate_tree(full_export, suite))
    first = asyncio.run(run_evaluation(base, store=store))
    calls = ModelCalls()
    off = adapter_points(probe_config(adapter_export, suite))[-1].evaluate
    second = asyncio.run(run_evaluation(off, store=store, calls=calls))
    assert calls.answers == 0
    assert second.record.generator == first.record.generator


def test_adapter_probe_of_an_export_without_one_names_the_way_out(
    full_export: Path, adapter_export: Path, suite: Path
) -> None:
    with pytest.raises(
        ConfigError,
        match=r"evaluate\.model\.path: .*model\.lora, or evaluate its base .*safemirage compare",
    ):
        adapter_points(probe_config(full_export, suite))
    merged = merge_export(adapter_export)
    with pytest.raises(ConfigError, match=f"merged weights.*{adapter_export}'"):
        adapter_points(probe_config(merged, suite))
    with pytest.raises(ConfigError, match=r"adapter_scale: 0\.5, but .* has no adapter"):
        load_for_inference(full_export, changes=WeightsConfig(adapter_scale=0.5))


@pytest.mark.parametrize(
    ("fields", "model", "message"),
    [
        ({"scales": [1]}, {}, "1 and 0 are measured anyway"),
        ({}, {"name": "vllm"}, r"'vllm' answers with weights .* 'transformers'"),
        ({}, {"weights": {"adapter_scale": 0.5}}, "starts from the export as it is"),
    ],
)
def test_adapter_probe_config_that_cannot_be_is_refused(
    suite: Path, fields: dict[str, Any], model: dict[str, Any], message: str
) -> None:
    tree = {"evaluate": evaluate_tree(suite, suite, **model), **fields}
    with pytest.raises(ConfigError, match=message):
        build_config(AdapterProbeConfig, tree)
