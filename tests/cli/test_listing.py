"""`safemirage list`: each kind by the records that its own writers make."""

import asyncio
import json
from pathlib import Path

import pytest

from safemirage.config.generators import DecodingConfig
from safemirage.config.loading.load import load_config, to_tree
from safemirage.config.train import TrainConfig
from safemirage.evaluation.generators.scripted import ScriptedGenerator
from safemirage.evaluation.judges.build import built_in_judge
from safemirage.evaluation.run.evaluate import EvaluationSpec, evaluate
from safemirage.settings import Settings
from safemirage.store import open_store, run_once
from tests.cli.calling import run
from tests.evaluation.mirage import six_samples
from tests.serve_app.study import STUDY, record_study
from tests.serve_app.world import write_export


@pytest.fixture(autouse=True)
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("SAFEMIRAGE_STORAGE", str(tmp_path / "storage"))
    monkeypatch.delenv("SAFEMIRAGE_STORE_URL", raising=False)
    return Settings.at(tmp_path / "storage")


def test_list_shows_what_is_stored_of_each_kind(
    settings: Settings, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config(TrainConfig, "configs:train/miniature_npo.yaml")
    spec = EvaluationSpec(id="npo-2", model="npo", decoding=DecodingConfig())
    generator = ScriptedGenerator(lambda request: "a cup", version="1")
    with open_store(settings.store_url) as store:
        run_once(store, run_id="npo-1", name="npo", kind="train", config=to_tree(config), work=lambda _: {})  # fmt: skip
        record_study(store, [(0.1, {"attack": 0.0, "useful": 0.1}), (0.9, None)])
        asyncio.run(evaluate(spec, six_samples(), generator, [built_in_judge("keywords")], store=store))  # fmt: skip
    write_export(settings.storage, "npo-3")
    write_export(settings.storage, "broken")
    (settings.storage.exports / "broken" / "manifest.json").write_text("{}")

    assert run("list", "--json", "-") == 0
    found = json.loads(capsys.readouterr().out)
    ids = {kind: {entry["id"]: entry["state"] for entry in found[kind]} for kind in found}
    assert ids == {
        "runs": {"npo-1": "finished"},
        "exports": {"broken": "broken", "npo-3": "ready"},
        "evaluations": {"npo-2": "finished"},
        "studies": {STUDY: "finished"},
    }
    assert found["runs"][0]["what"] == "train, npo from miniature:base"
    assert "1 of 3 trials finished; attack, useful" in found["studies"][0]["what"]
    assert "96 of 96 answered" in found["evaluations"][0]["what"]

    monkeypatch.setenv("COLUMNS", "80")
    assert run("list", "evaluations") == 0
    lines = capsys.readouterr().out.splitlines()
    assert any("npo-2" in line for line in lines)
    assert max(map(len, lines)) <= 80


def test_list_of_nothing_says_where_it_looked(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("list", "studies") == 0
    assert capsys.readouterr().out == f"studies: none in {settings.storage.root}\n"
