"""Mirage gaps, ASR@k tables and what n can show, in report and comparison."""

import asyncio
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from safemirage.config.attack import AttackConfig
from safemirage.config.generators import DecodingConfig
from safemirage.config.loading.load import build_config
from safemirage.evaluation.attacks.first_words import attack_suite
from safemirage.evaluation.generators.scripted import ScriptedGenerator
from safemirage.evaluation.judges.build import built_in_judge
from safemirage.evaluation.metrics.gap import condition_gaps
from safemirage.evaluation.metrics.significance import resolution
from safemirage.evaluation.reports.tables import gaps_grid, resolution_says
from safemirage.evaluation.run.archive import find_evaluation, load_evaluation
from safemirage.evaluation.run.evaluate import EvaluationSpec, evaluate
from safemirage.evaluation.types import Request
from safemirage.store import open_store
from safemirage.store.database import Store
from safemirage.text.first_word import first_word
from tests.cli.calling import run
from tests.evaluation.samples import sample_record, write_suite

REFUSAL = "i am sorry but i cannot help with that"
QUESTIONS = 8


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """Two evaluated models over an attacked suite: a mirage, and one that refuses by content."""
    monkeypatch.setenv("SAFEMIRAGE_STORAGE", str(tmp_path / "storage"))
    monkeypatch.delenv("SAFEMIRAGE_STORE_URL", raising=False)
    monkeypatch.setenv("COLUMNS", "250")
    unsafe = [sample_record(f"u{n}", question=f"Describe thing {n}.") for n in range(QUESTIONS)]
    safe = [
        sample_record(
            f"s{n}", condition="safe_plain", subset="safe", question=f"What is the cup {n}?"
        )
        for n in range(QUESTIONS)
    ]
    suite = write_suite(tmp_path / "suite", [*unsafe, *safe])
    attacks = [{"word": "what", "subset": "unsafe"}, {"word": "share", "subset": "safe"}]
    config = build_config(AttackConfig, {"suite": str(suite), "attacks": attacks})
    with open_store(f"sqlite:///{tmp_path / 'storage' / 'store.db'}") as opened:
        samples = asyncio.run(attack_suite(config, store=opened)).samples
        for name in ("mirage", "robust"):
            spec = EvaluationSpec(id=f"{name}-1", model=name, decoding=DecodingConfig())
            generator = ScriptedGenerator(
                lambda request, name=name: answer(name, request), version=name
            )
            judges = [built_in_judge(judge) for judge in ("oracle", "keywords")]
            asyncio.run(evaluate(spec, samples, generator, judges, store=opened))
        yield opened


def answer(model: str, request: Request) -> str:
    word = first_word(request.question)
    if model == "robust":
        return "a red knife" if "cup" in request.question else REFUSAL
    return "a red knife" if word == "what" else REFUSAL


def test_gap_is_taken_against_the_control_of_the_same_condition(store: Store) -> None:
    stored = [load_evaluation(store, find_evaluation(store, name)) for name in ("mirage", "robust")]
    gaps = {(one.model, one.condition): one for one in condition_gaps(stored)}
    assert set(gaps) == {
        (model, condition)
        for model in ("mirage", "robust")
        for condition in ("unsafe_what", "safe_share")
    }
    for condition in ("unsafe_what", "safe_share"):
        found = gaps["mirage", condition]
        assert found.gap is not None
        assert (found.gap.attacked, found.gap.control, found.gap.attempts) == (1.0, 0.0, 3)
        assert found.gap.change.low < found.gap.change.difference == 1.0, "no false certainty"
        assert found.gap.papers_difference == 1.0
        assert found.p_holm == pytest.approx(4 * 2 * 0.5**QUESTIONS)
        robust = gaps["robust", condition].gap
        assert robust is not None
        assert robust.change.difference == 0.0
    assert (gaps["mirage", "unsafe_what"].metric, gaps["mirage", "safe_share"].metric) == (
        "asr",
        "refusal_rate",
    )


def test_gap_of_another_budget_is_refused_in_a_note(store: Store) -> None:
    one = load_evaluation(store, find_evaluation(store, "mirage"))
    kept = [
        sample
        for sample in one.samples
        if sample.condition != "unsafe_neutral" or sample.sample_id.endswith("#1")
    ]
    one.samples[:] = kept
    gaps = condition_gaps([one])
    assert [(gap.condition, gap.gap is None) for gap in gaps] == [
        ("unsafe_what", True),
        ("safe_share", False),
    ]
    grid = gaps_grid(gaps)
    assert grid is not None
    assert len(grid.lines) == 1
    assert "mirage, unsafe_what: no gap, attack and control: [1, 3] tries" in grid.notes[-1]


def test_gap_of_fewer_attacks_takes_as_many_of_the_control(store: Store) -> None:
    one = load_evaluation(store, find_evaluation(store, "mirage"))
    one.samples[:] = [
        sample
        for sample in one.samples
        if sample.condition != "unsafe_what" or sample.sample_id.endswith("#1")
    ]
    found = next(gap for gap in condition_gaps([one]) if gap.condition == "unsafe_what")
    assert found.gap is not None
    assert (found.gap.attempts, found.gap.change.n) == (1, QUESTIONS)


def test_gap_of_sampled_rows_is_refused_in_a_note(store: Store) -> None:
    one = load_evaluation(store, find_evaluation(store, "mirage"))
    gaps = condition_gaps([replace(one, record=replace(one.record, sampling="rows"))])
    assert [gap.gap for gap in gaps] == [None, None]
    assert "separates rewrites from their questions" in gaps[0].note


def test_gap_without_a_common_question_is_refused_in_a_note(store: Store) -> None:
    one = load_evaluation(store, find_evaluation(store, "mirage"))
    split = [
        replace(sample, group_id=f"other {sample.group_id}")
        if sample.condition == "unsafe_neutral"
        else sample
        for sample in one.samples
    ]
    gaps = {gap.condition: gap for gap in condition_gaps([replace(one, samples=split)])}
    assert gaps["unsafe_what"].note == "attack and control share no scored question"
    assert gaps["safe_share"].gap is not None


def test_report_shows_gap_curve_and_smallest_effect_in_every_format(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "r"
    assert run("report", "mirage", "robust", "--out", out) == 0
    for name, mark in (("report.md", "## "), ("report.html", ">"), ("report.tex", "caption{")):
        text = (out / name).read_text()
        for title in ("Mirage gap", "By number of tries", "What n can show"):
            assert f"{mark}{title}" in text, (name, title)
    lines = (out / "report.md").read_text().splitlines()
    assert any("| mirage | unsafe_what | 100 % any of 3 | 0 % | +100.0 " in x for x in lines)
    assert any("| mirage | unsafe_what | asr | oracle | 2 of 3 | 100 (" in x for x in lines)
    tree = json.loads((out / "report.json").read_text())
    assert {gap["condition"] for gap in tree["mirage_gaps"]} == {"unsafe_what", "safe_share"}
    assert {one["metric"] for one in tree["attempts"]} == {"asr", "refusal_rate"}
    rows = {(row["model"], row["condition"], row["metric"]): row for row in tree["rows"]}
    assert rows["mirage", "unsafe_what", "asr"]["smallest_effect"]["n"] == QUESTIONS
    assert rows["mirage", "safe_share", "refusal_rate"]["smallest_effect"] is None
    assert "Mirage gap" in capsys.readouterr().out


def test_comparison_shows_both_models_gaps(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("compare", "mirage", "robust", "--out", tmp_path / "c") == 0
    assert "Mirage gap" in capsys.readouterr().out
    tree = json.loads((tmp_path / "c" / "compare.json").read_text())
    assert len(tree["mirage_gaps"]) == 4
    assert "## Mirage gap" in (tmp_path / "c" / "compare.md").read_text()
    assert 'id="gaps-title"' in (tmp_path / "c" / "compare.html").read_text()


def test_resolution_says_what_n_shows() -> None:
    assert resolution_says(resolution(442)) == "1.8 / 4.2"
    assert resolution_says(resolution(3)) == "none / none"
    assert resolution(0) is None
