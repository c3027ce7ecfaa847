"""`safemirage report`, `compare`, `gate`, `rescore`, `export` and `import` on evaluations in a store."""

import asyncio
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from safemirage.config.generators import DecodingConfig
from safemirage.evaluation.generators.scripted import ScriptedGenerator
from safemirage.evaluation.judges.build import built_in_judge
from safemirage.evaluation.run.evaluate import EvaluationSpec, evaluate
from safemirage.store import Store, open_store
from safemirage.store.records import EvaluationRecord
from tests.cli.calling import run
from tests.evaluation.mirage import answer, six_samples, targets_of

NAMES = ("base", "mixed_sft", "npo")


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    monkeypatch.setenv("SAFEMIRAGE_STORAGE", str(tmp_path / "storage"))
    monkeypatch.delenv("SAFEMIRAGE_STORE_URL", raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    with open_store(f"sqlite:///{tmp_path / 'storage' / 'store.db'}") as opened:
        yield opened


@pytest.fixture
def evaluated(store: Store) -> Store:
    samples = six_samples()
    target = targets_of(samples)
    judges = [built_in_judge(judge) for judge in ("oracle", "useful", "keywords")]
    for name in NAMES:
        spec = EvaluationSpec(id=f"{name}-1", model=name, decoding=DecodingConfig())
        generator = ScriptedGenerator(
            lambda request, name=name: answer(name, request, target), version=name
        )
        asyncio.run(evaluate(spec, samples, generator, judges, store=store))
    return store


def test_report_writes_every_format_and_prints_the_table(
    evaluated: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("report", "base", "mixed_sft-1", "--out", tmp_path / "r", "--title", "Mine") == 0
    screen = capsys.readouterr().out
    assert "mixed_sft is evaluation mixed_sft-1" in screen
    assert {path.name for path in (tmp_path / "r").iterdir()} == {
        "report.html",
        "report.json",
        "report.md",
        "report.tex",
    }
    assert "<h1>Mine</h1>" in (tmp_path / "r" / "report.html").read_text()


def test_compare_prints_and_writes_what_flipped(
    evaluated: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "c"
    assert run("compare", "mixed_sft", "npo", "base", "--out", out, "--flips", "3") == 0
    screen = " ".join(capsys.readouterr().out.split())
    assert "Evaluations: mixed_sft is mixed_sft-1; npo is npo-1; base is base-1." in screen
    tree = json.loads((out / "compare.json").read_text())
    found = {(c["second"], c["condition"], c["metric"]): c for c in tree["changes"]}
    what = found["npo", "unsafe_what", "asr"]
    assert (what["first_value"], what["second_value"], what["n"]) == (1.0, 0.0, 12)
    assert what["p_value"] == pytest.approx(2 * 0.5**12)
    assert what["p_holm"] > what["p_value"]
    assert len(what["flips"]) == 12
    assert found["base", "unsafe_plain", "asr"]["difference"] == 1.0
    page = (out / "compare.html").read_text()
    assert 'src="data:image/png;base64,' in page
    assert "and 9 more" in page
    assert "<script" not in page
    assert "| npo | ASR unsafe_what | 12 | 100 % | 0 % |" in (out / "compare.md").read_text()
    assert r"npo & ASR unsafe\_what & 12 &" in (out / "compare.tex").read_text()


def test_gate_says_yes_or_no_by_its_exit_code(
    evaluated: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("gate", "npo", "asr<=0.4", "useful_rate>=0.6") == 0
    assert "passed" in capsys.readouterr().out
    assert run("gate", "mixed_sft", "unsafe_plain/asr<=0.4", "asr<=0.4", "--json", "-") == 1
    tree = json.loads(capsys.readouterr().out)
    assert tree["passed"] is False
    passed = {(check["bar"], check["condition"]): check["passed"] for check in tree["checks"]}
    assert passed["unsafe_plain/asr<=0.4", "unsafe_plain"]
    assert not passed["asr<=0.4", "unsafe_what"]
    assert run("gate", "npo", "asr<0.3") == 2
    assert run("gate", "nothing", "asr<=0.4") == 2


def test_rescore_prints_the_other_judges_table_without_a_call(
    evaluated: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("rescore", "npo", "--judge", "keywords", "--json", tmp_path / "r.json") == 0
    assert "model calls: 0 for answers, 0 for verdicts" in capsys.readouterr().out
    tree = json.loads((tmp_path / "r.json").read_text())
    assert tree["evaluation"].startswith("npo-rescored-")
    assert {row["judge"] for row in tree["rows"]} == {"keywords", "degenerate"}


def test_export_and_import_bring_an_evaluation_to_another_store(
    evaluated: Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run("export", "npo", tmp_path / "npo") == 0
    monkeypatch.setenv("SAFEMIRAGE_STORAGE", str(tmp_path / "elsewhere"))
    assert run("import", tmp_path / "npo") == 0
    assert "evaluation npo-1: 96 samples" in capsys.readouterr().out
    assert run("report", "npo", "--out", tmp_path / "r") == 0
    assert "data:image/png" in (tmp_path / "r" / "report.html").read_text()


def test_export_for_inspect_writes_a_log_for_each_condition(
    evaluated: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from inspect_ai.log import read_eval_log

    assert run("export", "npo", tmp_path / "logs", "--format", "inspect") == 0
    printed = capsys.readouterr().out.split()
    assert sorted(map(Path, printed)) == sorted((tmp_path / "logs").iterdir())
    logs = [read_eval_log(path) for path in printed]
    assert {(log.eval.model, log.eval.task) for log in logs} == {
        ("npo", f"{subset}_{attack}")
        for subset, attacks in (("unsafe", ("plain", "what")), ("safe", ("plain", "share")))
        for attack in (*attacks, "unseen")
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["report", "nothing"], "'nothing' is neither an id nor a name; there are: npo-1"),
        (["compare", "npo", "npo-1"], "one stands twice"),
        (["rescore", "npo", "--judge", "gard"], "gard"),
        (["report", "open"], "evaluation open is queued, not finished"),
        (["export", "nothing", "x"], "neither an id nor a name"),
        (["import", "/nonexistent"], "samples.parquet"),
    ],
)
def test_commands_name_what_is_wrong_and_exit_2(
    evaluated: Store, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluated.evaluations.submit(EvaluationRecord(name="m"), evaluation_id="open")
    assert run(*arguments) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert message in error
    assert "Traceback" not in error


def test_two_evaluations_of_one_name_are_told_apart_by_id_and_refused_where_they_are_the_same(
    evaluated: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = evaluated.evaluations.get("npo-1")
    assert first is not None
    held = {one.pop("position"): one for one in evaluated.evaluations.samples("npo-1")}
    # A generator that tells its weights: only then are two evaluations known to be one measurement.
    known = replace(first.record, generator={"weights": "1"})
    for name, record in (
        ("npo-2", known),
        ("npo-3", replace(known, name="again")),
        ("npo-4", replace(known, seed=1)),
    ):
        evaluated.evaluations.adopt(name, record=record, rows=first.rows or [], samples=held)
    for command in (["report", "npo"], ["compare", "base", "npo"], ["gate", "npo", "asr<=1"]):
        assert run(*command) == 2
        error = capsys.readouterr().err
        assert "'npo': 4 have that name; give one's id" in error
        assert "npo-4" in error
    for name in ("compare", "report"):
        assert run(name, "npo-2", "npo-3") == 2
        said = "evaluations npo-2 and npo-3: the same model, suite and judges under two names"
        assert said in " ".join(capsys.readouterr().err.split())
    assert run("compare", "npo-2", "npo-4") == 0
    assert "Changes from npo-2 to npo-4" in capsys.readouterr().out


def test_report_of_rescored_answers_sets_judges_and_protocols_side_by_side(
    evaluated: Store, tmp_path: Path
) -> None:
    rescored = []
    for options in ([], ["--protocol", "paper"]):
        out = tmp_path / "r.json"
        assert run("rescore", "npo", "--judge", "keywords", *options, "--json", out) == 0
        rescored.append(json.loads(out.read_text())["evaluation"])
    assert run("report", "npo", *rescored, "base", "--out", tmp_path / "r") == 0
    rows = json.loads((tmp_path / "r" / "report.json").read_text())["rows"]
    found = [row for row in rows if (row["condition"], row["metric"]) == ("unsafe_plain", "asr")]
    assert [row["judge"] for row in found] == ["oracle", "keywords", "keywords", "oracle"]
    assert [row["value"] for row in found] == [0.0, 1.0, 1.0, 1.0]
    text = (tmp_path / "r" / "report.md").read_text()
    assert f"npo (paper) is evaluation {rescored[1]}, by the protocol paper." in text
