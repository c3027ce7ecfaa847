"""Result files of other tools, in their real shapes: only what is certainly a total is read."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from safemirage.data.records import DataError
from safemirage.evaluation.utility.files import read_results
from tests.evaluation.suites.sets.files import put_json

MODEL = "llava_v1.5_7b"
LMMS = {
    "results": {
        "textvqa_val": {
            "alias": "textvqa_val",
            "exact_match,none": 0.4611,
            "exact_match_stderr,none": 0.0067,
            "exact_match_stderr_clt,none": 0.0068,
            "exact_match_stderr_clustered,none": "N/A",
            "submission,none": None,
            "submission_stderr,none": "N/A",
        },
        "scienceqa_img": {"alias": " - scienceqa_img", "exact_match,strict": 0.69},
    },
    "config": {"model": "llava_hf", "model_args": "pretrained=me/npo", "limit": 500},
    "n-samples": {
        "textvqa_val": {"original": 5000, "effective": 500},
        "scienceqa_img": {"original": 2017, "effective": -1},
    },
    "model_name": "me/npo",
}
MMVET = [
    ("Category", "tot", "acc"),
    ("rec", 187, 38.1),
    ("ocr", 108, 25.6),
    ("know", 84, 17.6),
    ("Overall", 218, 32.9),
]
OCRBENCH = {
    "Text Recognition": 163,
    "Scene Text-centric VQA": 119,
    "Doc-oriented VQA": 12,
    "Key Information Extraction": 7,
    "Handwritten Mathematical Expression Recognition": 0,
    "Final Score": 301,
    "Final Score Norm": 30.1,
}


def _table(folder: Path, task: str, rows: Sequence[Sequence[Any]], ending: str = "acc") -> Path:
    """A table as VLMEvalKit writes it: every cell in quotes."""
    run = folder / MODEL / "T20260101_G0"
    run.mkdir(parents=True, exist_ok=True)
    path = run / f"{MODEL}_{task}_{ending}.csv"
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream, quoting=csv.QUOTE_ALL).writerows(rows)
    return path


def _json(folder: Path, task: str, tree: Any, ending: str = "score") -> Path:
    return put_json(folder / MODEL / "T20260101_G0" / f"{MODEL}_{task}_{ending}.json", tree)


def _run(folder: Path, **datasets: dict[str, Any]) -> Path:
    named = {
        task: {"status": "done", "metrics": metrics} if metrics else {"status": "infer"}
        for task, metrics in datasets.items()
    }
    tree = {"schema_version": "1.0", "model_name": MODEL, "datasets": named}
    return put_json(folder / "status.json", tree)


def _found(path: Path, *totals: str) -> list[tuple[str, str, float, int | None]]:
    return [(one.task, one.metric, one.value, one.n) for one in read_results(path, totals)]


def test_lmms_eval_results_are_read_with_their_n(tmp_path: Path) -> None:
    first, second = read_results(put_json(tmp_path / "20260101_results.json", LMMS))
    assert (first.tool, first.model) == ("lmms-eval", "me/npo")
    assert (first.task, first.metric) == ("textvqa_val", "exact_match")
    assert (first.value, first.error, first.n) == (0.4611, 0.0067, 500)
    assert (second.metric, second.error, second.n) == ("exact_match (strict)", None, 2017)


def test_vlmevalkit_tables_give_their_total_and_no_part_of_it(tmp_path: Path) -> None:
    mmvet = _table(tmp_path, "MMVet_gpt-4-turbo", MMVET, "score")
    assert _found(mmvet) == [("MMVet_gpt-4-turbo", "acc", 32.9, 218)]
    assert _found(_json(tmp_path, "OCRBench", OCRBENCH)) == [("OCRBench", "Final Score", 301, None)]
    splits = [("split", "Overall", "biology"), ("test", 0.664, "nan"), ("dev", 0.5, 0.1)]
    assert _found(_table(tmp_path, "ScienceQA", splits)) == [
        ("ScienceQA", "Overall (test)", 0.664, None),
        ("ScienceQA", "Overall (dev)", 0.5, None),
    ]
    pope = [("split", "Overall", "acc"), ("Overall", 85.2, 86.1), ("random", 88.0, 88.9)]
    assert [one[1:3] for one in _found(_table(tmp_path, "POPE", pope, "score"))] == [
        ("Overall", 85.2),
        ("acc", 86.1),
    ]
    vizwiz = _json(tmp_path, "VizWiz", [{"Overall": 54.2}], "acc")
    assert _found(vizwiz) == [("VizWiz", "Overall", 54.2, None)]
    (score,) = read_results(vizwiz)
    assert (score.tool, score.model) == ("VLMEvalKit", MODEL)


def test_vlmevalkit_runs_give_the_same_totals_as_their_tables(tmp_path: Path) -> None:
    label, *columns = MMVET[0]
    flat = {
        f"{label}={row[0]}|{column}": value
        for row in MMVET[1:]
        for column, value in zip(columns, row[1:], strict=True)
    }
    plain = {"split=none|Overall": 45.49, "split=none|text": 40.0}
    path = _run(tmp_path, MMVet=flat, OCRBench=OCRBENCH, TextVQA_VAL=plain, MMBench={})
    assert _found(path) == [
        ("MMVet", "acc", 32.9, 218),
        ("OCRBench", "Final Score", 301, None),
        ("TextVQA_VAL", "Overall", 45.49, None),
    ]


def test_a_table_without_a_certain_total_is_refused_until_it_is_named(tmp_path: Path) -> None:
    mme = _table(tmp_path, "MME", [("perception", "reasoning", "OCR"), (1510, 320, 130)], "score")
    with pytest.raises(DataError, match=r"MME: no number is certainly .* perception, reasoning"):
        read_results(mme)
    named = [("MME", "perception", 1510, None), ("MME", "reasoning", 320, None)]
    assert _found(mme, "perception", "Reasoning") == named
    categories = [("subject", "acc"), ("physics", 0.4), ("art", 0.6)]
    twice = [("Category", "acc"), ("Overall", 0.4), ("Overall", 0.6)]
    nameless = [("Overall", "x"), (0.4, 0.1), (0.6, 0.1)]
    by_subject = [("subject", "Overall"), ("physics", 0.4), ("art", 0.6)]
    for number, rows in enumerate((categories, twice, nameless, by_subject)):
        with pytest.raises(DataError, match="no number is certainly the total"):
            read_results(_table(tmp_path, f"T{number}", rows))
    with pytest.raises(DataError, match="no number is certainly the total"):
        read_results(_run(tmp_path, T={"Overall": 0.4, "Overall#1": 0.6}))


def test_numbers_that_no_float_holds_are_no_scores(tmp_path: Path) -> None:
    tree = {"results": {"task": {"acc,none": 10**400, "f1,none": 0.5}}}
    found = read_results(put_json(tmp_path / "r.json", {**LMMS, **tree}))
    assert [(score.metric, score.value) for score in found] == [("f1", 0.5)]


@pytest.mark.parametrize(
    ("name", "tree", "message"),
    [
        ("x.json", {"scores": {}}, "is neither lmms-eval's"),
        ("x.json", {"results": {"t": {"alias": "t"}}}, "holds no number"),
        ("other_VizWiz_acc.json", [{"Overall": 1}], "does not say its model"),
    ],
)
def test_other_results_that_cannot_be_read_say_why(
    name: str, tree: Any, message: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=message):
        read_results(put_json(tmp_path / "folder" / name, tree))
