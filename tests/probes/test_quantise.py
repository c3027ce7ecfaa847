import asyncio
from pathlib import Path
from typing import Any

import pytest

from safemirage.cli import main
from safemirage.config.loading.load import ConfigError, build_config, dump_yaml
from safemirage.config.probe import QuantiseConfig
from safemirage.probes.measuring import measure
from safemirage.probes.weights import quantise_points
from safemirage.store import Store
from tests.probes.exports import evaluate_tree


def probe_config(export: Path, suite: Path, **fields: Any) -> QuantiseConfig:
    return build_config(QuantiseConfig, {"evaluate": evaluate_tree(export, suite), **fields})


def test_quantise_probe_asks_the_export_and_each_variant_once(
    adapter_export: Path, suite: Path, store: Store
) -> None:
    variants = [{"name": "round_to_nearest", "bits": 2}, {"name": "round_to_nearest", "bits": 8}]
    points = quantise_points(probe_config(adapter_export, suite, variants=variants))
    assert [point.name for point in points] == ["probed", "probed-int2", "probed-int8"]
    found, again = (
        asyncio.run(measure("quantise", points, store=store, on_progress=lambda *_: None))
        for _ in range(2)
    )
    assert (found.calls.answers, again.calls.answers) == (12, 0)
    weights = {one.record.generator["weights"] for one in found.evaluations}
    assert len(weights) == 1
    plain, rounded = ([s.answer for s in one.samples] for one in found.evaluations[:2])
    assert plain != rounded
    assert {change.second for change in found.comparison.changes} == {"probed-int2", "probed-int8"}


def test_quantise_probe_refuses_what_this_machine_cannot_do_before_anything_is_asked(
    full_export: Path, suite: Path
) -> None:
    config = probe_config(full_export, suite, variants=[{"name": "bitsandbytes", "kind": "int8"}])
    with pytest.raises(ConfigError, match=r"bitsandbytes-int8.*needs cuda"):
        quantise_points(config)
    for variants, message in (
        ([{"name": "round_to_nearest", "bits": 9}], r"variants\.0\.bits: 9 is not allowed"),
        ([{"name": "gptq"}], "gptq"),
        ([{"name": "bitsandbytes"}, {"name": "bitsandbytes"}], "holds one twice"),
    ):
        with pytest.raises(ConfigError, match=message):
            probe_config(full_export, suite, variants=variants)


def test_probe_command_prints_rates_and_paired_changes_and_writes_files(
    full_export: Path,
    suite: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("SAFEMIRAGE_STORAGE", str(tmp_path))
    monkeypatch.delenv("SAFEMIRAGE_STORE_URL", raising=False)
    monkeypatch.setenv("COLUMNS", "250")
    file = tmp_path / "probe.yaml"
    file.write_text(dump_yaml(probe_config(full_export, suite)))
    with pytest.raises(SystemExit) as ended:
        main(["probe", "quantise", str(file), "--out", str(tmp_path / "out")])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    for expected in ("probed-int4", "Changes from probed", "model calls: 12 for answers"):
        assert expected in said
    assert (tmp_path / "out" / "probe.json").is_file()


def test_probe_command_with_a_config_that_cannot_be_used_exits_1_with_the_reason(
    full_export: Path, suite: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "probe.yaml"
    file.write_text(dump_yaml({"evaluate": evaluate_tree(full_export, suite)}))
    with pytest.raises(SystemExit) as ended:
        main(["probe", "adapter", str(file)])
    assert ended.value.code == 2
    assert "has no adapter that could be taken off" in capsys.readouterr().err
