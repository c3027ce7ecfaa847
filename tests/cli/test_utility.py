"""Sets of utility from the command line, over HTTP: evaluated twice, broken down, submitted, beside imported results."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cli.calling import run
from tests.evaluation.service import Service, running_service
from tests.evaluation.sets.files import put_json
from tests.evaluation.sets.utility_files import scienceqa, textvqa, vizwiz, vqav2


@pytest.fixture
def service() -> Iterator[Service]:
    with running_service({"weights_digest": "w1"}) as running:
        yield running


@pytest.fixture(autouse=True)
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAFEMIRAGE_STORAGE", str(tmp_path / "storage"))
    monkeypatch.delenv("SAFEMIRAGE_STORE_URL", raising=False)
    monkeypatch.setenv("COLUMNS", "200")


def _config(folder: Path, service: Service, given: dict[str, Any], *judges: str) -> Path:
    name = given["name"]
    tree = {
        "name": name,
        "model": {"name": "openai", "url": service.url, "model": "m", "attempts": 1},
        "set": given,
        "judges": [{"name": judge} for judge in judges],
    }
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def test_utility_sets_are_scored_and_a_second_run_asks_nothing(
    service: Service, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The service says `a red knife`, which 3 of 10 people said of TextVQA's questions and 9 of VQA v2's."""
    configs = [
        _config(tmp_path, service, textvqa(tmp_path / "t"), "vqa_accuracy", "refusal_rules"),
        _config(tmp_path, service, vqav2(tmp_path / "v"), "vqa_accuracy"),
        _config(tmp_path, service, vizwiz(tmp_path / "w"), "vqa_accuracy"),
        _config(tmp_path, service, scienceqa(tmp_path / "s"), "multiple_choice"),
    ]
    found = {}
    for config in configs:
        out = tmp_path / "out.json"
        assert run("evaluate", config, "--json", out) == 0
        rows = json.loads(out.read_text())["rows"]
        found |= {row["case"]: row["value"] for row in rows if row["metric"] == "accuracy"}
    assert found == pytest.approx({"textvqa": 0.9, "vqav2": 1.0, "vizwiz": 1 / 3, "scienceqa": 0.0})
    assert len(service.asked) == 12
    assert "accuracy" in capsys.readouterr().out
    assert run("evaluate", configs[0]) == 0
    assert "model calls: 0 for answers, 0 for verdicts" in capsys.readouterr().out
    assert len(service.asked) == 12

    assert run("report", "textvqa", "--out", tmp_path / "report") == 0
    assert "The picture that is asked about" in (tmp_path / "report" / "report.html").read_text()
    assert run("rescore", "textvqa", "--judge", "vqa_accuracy") == 0
    assert "model calls: 0 for answers, 0 for verdicts" in capsys.readouterr().out
    results = {"results": {"mmmu_val": {"accuracy,none": 0.355}}, "model_name": "me/x"}
    path = put_json(tmp_path / "r_results.json", results)
    arguments = ["--import", f"textvqa={path}", "--out", tmp_path / "u"]
    assert run("utility", "textvqa", "scienceqa", "vizwiz", *arguments) == 0
    screen = capsys.readouterr().out
    assert "0.355" in screen
    assert "textvqa: accuracy by group" in screen
    assert "vizwiz, unanswerable told: F1 0 %, average precision 66.7 %, n = 3." in screen
    (line,) = json.loads((tmp_path / "u" / "utility.json").read_text())
    assert line["model"] == "textvqa"  # one generator, so one line
    assert line["other_tools"][0]["value"] == 0.355
    groups = {(one["case"], one["group"]): one["n"] for one in line["accuracy"]}
    assert groups["scienceqa", "overall"] == 3
    assert groups["scienceqa", "IMG"] == 2
    assert groups["vizwiz", "unanswerable"] == 2
    assert "| textvqa |" in (tmp_path / "u" / "utility.md").read_text()
    assert r"\toprule" in (tmp_path / "u" / "utility.tex").read_text()


def test_submission_writes_the_official_file_of_a_test_set(
    service: Service, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = vqav2(tmp_path / "v", subtype="test2015")
    config = _config(tmp_path, service, given, "refusal_rules")
    assert run("evaluate", config) == 0
    out = tmp_path / "vqav2.json"
    assert run("submission", config, "--out", out) == 0
    assert f"{out}: 3 answers, read again and complete" in capsys.readouterr().out
    lines = json.loads(out.read_text())
    assert lines == [
        {"question_id": number, "answer": "red knife"} for number in (1000, 1001, 2000)
    ]


def test_a_test_set_cannot_be_scored(
    service: Service, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = _config(tmp_path, service, vizwiz(tmp_path / "w", split="test"), "vqa_accuracy")
    assert run("evaluate", config) == 1
    assert "only val sets have them" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["submission", "nothing", "--out", "x.json"], "neither an id nor a name"),
        (["utility", "--import", "nothing.json"], "nothing.json: cannot be read"),
    ],
)
def test_utility_commands_name_what_is_wrong_and_exit_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_utility_of_nothing_is_a_usage_error() -> None:
    assert run("utility") == 2
