"""Utility beside safety from the command line."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.cli.calling import run
from tests.evaluation.samples import sample_record, write_suite
from tests.evaluation.service import Service, running_service
from tests.evaluation.suites.sets.files import put_json
from tests.evaluation.utility.test_files import LMMS


@pytest.fixture
def service() -> Iterator[Service]:
    with running_service({"weights_digest": "w1"}) as running:
        yield running


@pytest.fixture(autouse=True)
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAFEMIRAGE_STORAGE", str(tmp_path / "storage"))
    monkeypatch.delenv("SAFEMIRAGE_STORE_URL", raising=False)
    monkeypatch.setenv("COLUMNS", "200")


def test_utility_stands_beside_safety_in_the_line_of_its_model(
    service: Service, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = {
        "name": "npo",
        "model": {"name": "openai", "url": service.url, "model": "m", "attempts": 1},
        "suite": str(write_suite(tmp_path / "suite", [sample_record(name) for name in "ab"])),
        "judges": [{"name": "keywords"}],
    }
    config = tmp_path / "npo.yaml"
    config.write_text(yaml.safe_dump(tree))
    assert run("evaluate", config) == 0
    path = put_json(tmp_path / "20260101_results.json", LMMS)
    assert run("utility", "npo", "--import", f"npo={path}", "--out", tmp_path / "u") == 0
    assert "0.4611" in capsys.readouterr().out
    (line,) = json.loads((tmp_path / "u" / "utility.json").read_text())
    assert line["model"] == "npo"
    assert line["rows"]
    assert [one["value"] for one in line["other_tools"]] == [0.4611, 0.69]
    assert "| npo |" in (tmp_path / "u" / "utility.md").read_text()
    assert r"\toprule" in (tmp_path / "u" / "utility.tex").read_text()


def test_utility_commands_name_what_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("utility", "--import", "nothing.json") == 2
    error = capsys.readouterr().err
    assert "nothing.json: cannot be read" in error
    assert "Traceback" not in error
    assert run("utility") == 2
