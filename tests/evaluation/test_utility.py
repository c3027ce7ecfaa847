"""Accuracy and its breakdowns, submission files, other tools' results, and the table that has them all."""

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from safemirage.data.records import DataError
from safemirage.evaluation.accuracy import accuracy_rows, mean_score
from safemirage.evaluation.cases import Verdict
from safemirage.evaluation.errors import EvaluationError
from safemirage.evaluation.metrics import Row
from safemirage.evaluation.other_results import read_results
from safemirage.evaluation.readings import score_as
from safemirage.evaluation.record import EvaluationRecord
from safemirage.evaluation.samples import Sample
from safemirage.evaluation.statistics import wilson_rate
from safemirage.evaluation.stored import StoredEvaluation
from safemirage.evaluation.submission import check_submission, write_submission
from safemirage.evaluation.utility import groups_of, unanswerability, utility_scores
from safemirage.evaluation.utility_table import model_lines, utility_grid
from tests.evaluation.sets.files import put_json

VQA, CHOICE = "vqa_accuracy", "multiple_choice"


def _sample(  # noqa: PLR0913 - fields of a sample
    name: str,
    score: float | None,
    *,
    case: str = "textvqa",
    judge: str = VQA,
    image: str | None = None,
    answer: str | None = "a red knife",
    truth: Mapping[str, str] | None = None,
) -> Sample:
    label = "unscored" if score is None else "comply" if score else "other"
    return Sample(
        sample_id=f"{case}/{name}",
        case=case,
        subset="safe",
        attack="plain",
        group_id=name,
        question="?",
        image=image,
        truth=dict(truth or {}),
        answer=answer,
        error="" if answer is not None else "timed out",
        verdicts=(Verdict(judge=judge, label=label, score=score),),
    )


def _evaluation(
    samples: list[Sample], judge: str = VQA, *, name: str = "m", **fields: Any
) -> StoredEvaluation:
    rows = accuracy_rows(name, samples, {judge: ("accuracy",)})
    record = EvaluationRecord(name=name, **fields)
    return StoredEvaluation(id=f"{name}-1", name=name, rows=rows, samples=samples, record=record)


def test_mean_score_averages_soft_scores_and_leaves_out_unscored_ones() -> None:
    samples = [
        _sample("a", 0.3, image="x"),
        _sample("b", 0.9, image="y"),
        _sample("c", 0.6, image="y"),
        _sample("d", None),
    ]
    rate = mean_score(samples, VQA)
    assert (rate.value, rate.n) == (pytest.approx(0.6), 3)
    assert rate.low is not None
    assert rate.high is not None
    # Of two pictures, means 0.3 and 0.75, the bootstrap draws one, the other, or both.
    assert (rate.low, rate.high) == (pytest.approx(0.3), pytest.approx(0.75))
    (row,) = accuracy_rows("m", samples, {VQA: ("accuracy",)})
    assert (row.metric, row.case, row.n, row.unscored) == ("accuracy", "textvqa", 3, 1)


def test_mean_score_of_right_and_wrong_answers_has_wilsons_interval() -> None:
    samples = [_sample(str(place), float(place < 7)) for place in range(10)]
    assert mean_score(samples, VQA) == wilson_rate(7, 10)
    assert mean_score([], VQA) == wilson_rate(0, 0)
    alike = mean_score([_sample(str(place), 0.9) for place in range(4)], VQA)
    assert (alike.value, alike.n) == (0.9, 4)
    assert (alike.low, alike.high) == (wilson_rate(3, 4).low, 1.0)
    same_picture = [_sample(str(place), 1.0, image="x") for place in range(4)]
    rate = mean_score(same_picture, VQA)
    assert (rate.value, rate.n, rate.low) == (1.0, 4, wilson_rate(1, 1).low)


@pytest.mark.parametrize("reading", ["corrected", "paper"])
def test_accuracy_is_the_same_in_both_readings(reading: Any) -> None:
    samples = [_sample("a", 1.0), _sample("b", 0.0)]
    rows = score_as(reading, "m", samples, {VQA: ("accuracy",)})
    assert [(row.metric, row.value) for row in rows] == [("accuracy", 0.5)]


def _science(name: str, score: float, **truth: str) -> Sample:
    given = {"subject": "natural science", "grade": "grade2", "has_hint": "false", **truth}
    image = f"picture {name}" if name.startswith("i") else None
    return _sample(name, score, case="scienceqa", judge=CHOICE, image=image, truth=given)


def test_scienceqa_is_broken_down_as_its_table() -> None:
    samples = [
        _science("i1", 1.0, has_hint="true"),
        _science("i2", 0.0, subject="social science"),
        _science("t1", 1.0, subject="language science", grade="grade12"),
        _science("t2", 0.0, has_hint="true", grade="grade7"),
    ]
    scores = utility_scores(_evaluation(samples, CHOICE))
    assert [(one.group, one.value, one.n) for one in scores] == [
        ("overall", 0.5, 4),
        ("NAT", 0.5, 2),
        ("SOC", 0.0, 1),
        ("LAN", 1.0, 1),
        ("TXT", 0.5, 2),
        ("IMG", 0.5, 2),
        ("NO", 1.0, 1),
        ("G1-6", 0.5, 2),
        ("G7-12", 0.5, 2),
    ]


def test_vqa_is_broken_down_by_answer_type() -> None:
    samples = [
        _sample(str(place), score, case="vqav2", truth={"answer_type": kind})
        for place, (score, kind) in enumerate([(0.9, "yes/no"), (0.3, "other"), (0.6, "number")])
    ]
    scores = utility_scores(_evaluation(samples))
    assert [one.group for one in scores] == ["overall", "yes/no", "number", "other"]
    assert [one.value for one in scores] == pytest.approx([0.6, 0.9, 0.6, 0.3])
    assert groups_of(_sample("a", 1.0)) == []


def test_unanswerability_counts_as_scikit_learn_does() -> None:
    """Three of four said unanswerable, two of them and one more were: F1 2/3; average precision by
    sklearn.metrics.average_precision_score([1, 1, 0, 1, 0], [1, 1, 1, 0, 0]) = 0.6444."""
    said = [True, True, True, False, False]
    true = [True, True, False, True, False]
    samples = [
        _sample(
            str(place),
            0.0,
            case="vizwiz",
            answer="Unanswerable." if said[place] else "cat",
            truth={"answerable": "0" if true[place] else "1"},
        )
        for place in range(5)
    ]
    found = unanswerability(samples)
    assert found is not None
    assert (found.f1, found.n) == (pytest.approx(2 / 3), 5)
    assert found.average_precision == pytest.approx(2 / 3 * 2 / 3 + 1 / 3 * 3 / 5)
    assert unanswerability([_sample("a", 1.0)]) is None


def _vqa_test(answers: Mapping[str, str | None]) -> StoredEvaluation:
    return _evaluation(
        [
            _sample(name, None, case="vqav2", answer=answer, truth={"question_id": name})
            for name, answer in answers.items()
        ]
    )


def test_submission_of_vqav2_has_normalised_answers_by_number(tmp_path: Path) -> None:
    path = tmp_path / "out" / "vqav2.json"
    assert write_submission(_vqa_test({"1000": "Two, cats.", "1001": "the dog"}), path) == 2
    assert json.loads(path.read_text()) == [
        {"question_id": 1000, "answer": "2 cats"},
        {"question_id": 1001, "answer": "dog"},
    ]


def test_submission_of_test_dev_fills_the_whole_set(tmp_path: Path) -> None:
    whole = put_json(
        tmp_path / "test2015.json",
        {"questions": [{"question_id": number} for number in (1002, 1000, 1001)]},
    )
    path = tmp_path / "vqav2.json"
    assert write_submission(_vqa_test({"1000": "cat"}), path, all_questions=whole) == 3
    assert json.loads(path.read_text()) == [
        {"question_id": 1002, "answer": ""},
        {"question_id": 1000, "answer": "cat"},
        {"question_id": 1001, "answer": ""},
    ]
    with pytest.raises(
        EvaluationError, match=r"1 of its questions are not in the whole set: \[7\]"
    ):
        write_submission(_vqa_test({"7": "cat"}), path, all_questions=whole)


def test_submission_of_vizwiz_names_pictures(tmp_path: Path) -> None:
    name = "VizWiz_test_00000000.jpg"
    sample = _sample("0", None, case="vizwiz", answer="Unanswerable", truth={"image_name": name})
    path = tmp_path / "vizwiz.json"
    write_submission(_evaluation([sample]), path)
    assert json.loads(path.read_text()) == [{"image": name, "answer": "unanswerable"}]
    with pytest.raises(EvaluationError, match="only VQA v2"):
        write_submission(_evaluation([sample]), path, all_questions=path)


def test_submission_is_refused_where_answers_are_missing(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    with pytest.raises(EvaluationError, match=r"1 questions have no answer: vqav2/1 \(timed out\)"):
        write_submission(_vqa_test({"1": None, "2": "cat"}), path)
    with pytest.raises(EvaluationError, match=r"asked \['textvqa'\].*vqav2, vizwiz"):
        write_submission(_evaluation([_sample("a", 1.0)]), path)
    assert not path.exists()


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([{"question_id": 1, "answer": 2}], "are not of question_id and answer"),
        ([{"image": "x", "answer": "a"}], "are not of question_id and answer"),
        ([{"question_id": 2, "answer": "a"}], r"each question once: \['1', '2'\]"),
        ([{"question_id": 1, "answer": "a"}] * 2, "each question once"),
    ],
)
def test_check_submission_finds_what_a_server_refuses(
    lines: list[Any], message: str, tmp_path: Path
) -> None:
    path = put_json(tmp_path / "x.json", lines)
    with pytest.raises(EvaluationError, match=message):
        check_submission(path, "question_id", [1])


LMMS = {
    "results": {
        "textvqa_val": {
            "alias": "textvqa_val",
            "exact_match,none": 0.4611,
            "exact_match_stderr,none": 0.0067,
            "submission,none": None,
            "submission_stderr,none": "N/A",
        },
        "scienceqa_img": {"alias": " - scienceqa_img", "exact_match,strict": 0.69},
    },
    "config": {"model": "llava_hf", "model_args": "pretrained=me/npo"},
    "n-samples": {
        "textvqa_val": {"original": 5000, "effective": 500},
        "scienceqa_img": {"original": 2017, "effective": -1},
    },
    "model_name": "me/npo",
}


def test_lmms_eval_results_are_read_with_their_n(tmp_path: Path) -> None:
    path = put_json(tmp_path / "20260101_results.json", LMMS)
    first, second = read_results(path)
    assert (first.tool, first.model, first.task, first.metric) == (
        "lmms-eval",
        "me/npo",
        "textvqa_val",
        "exact_match",
    )
    assert (first.value, first.error, first.n) == (0.4611, 0.0067, 500)
    assert (second.metric, second.error, second.n) == ("exact_match (strict)", None, 2017)


def test_vlmevalkit_runs_and_tables_are_read(tmp_path: Path) -> None:
    run = {
        "schema_version": "1.0",
        "model_name": "llava_v1.5_7b",
        "datasets": {
            "TextVQA_VAL": {
                "status": "done",
                "primary_metric": "Overall",
                "metrics": {"Overall": 45.49},
            },
            "MMBench": {"status": "infer"},
        },
    }
    (score,) = read_results(put_json(tmp_path / "status.json", run))
    assert (score.tool, score.model, score.task) == ("VLMEvalKit", "llava_v1.5_7b", "TextVQA_VAL")
    assert (score.metric, score.value, score.n) == ("Overall", 45.49, None)

    folder = tmp_path / "llava_v1.5_7b" / "T20260101_G0"
    folder.mkdir(parents=True)
    table = folder / "llava_v1.5_7b_ScienceQA_TEST_acc.csv"
    with table.open("w", newline="") as stream:
        writer = csv.writer(stream, quoting=csv.QUOTE_ALL)
        writer.writerows([["split", "Overall", "biology"], ["test", "0.664", "nan"]])
    (score,) = read_results(table)
    assert (score.model, score.task) == ("llava_v1.5_7b", "ScienceQA_TEST")
    assert (score.metric, score.value) == ("Overall (test)", 0.664)
    records = put_json(folder / "llava_v1.5_7b_VizWiz_acc.json", [{"Overall": 54.2}])
    (score,) = read_results(records)
    assert (score.task, score.metric, score.value) == ("VizWiz", "Overall", 54.2)


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


def test_results_of_other_tools_join_the_line_of_any_evaluation_that_they_name(
    tmp_path: Path,
) -> None:
    (score, _) = read_results(put_json(tmp_path / "r.json", LMMS))
    key = {"weights": "w1"}
    first = _evaluation([_sample("a", 0.6)], name="vlguard", generator=key)
    second = _evaluation([_sample("a", 0.6)], name="textvqa", generator=key)
    for name in ("vlguard", "textvqa", "textvqa-1"):
        (line,) = model_lines([first, second], [(name, score)])
        assert (line.name, line.others) == ("vlguard", [score])


def test_numbers_that_no_float_holds_are_no_scores(tmp_path: Path) -> None:
    tree = {"results": {"task": {"acc,none": 10**400, "f1,none": 0.5}}}
    found = read_results(put_json(tmp_path / "r.json", {**LMMS, **tree}))
    assert [(score.metric, score.value) for score in found] == [("f1", 0.5)]


def test_submission_holds_half_characters(tmp_path: Path) -> None:
    path = tmp_path / "s.json"
    write_submission(_vqa_test({"1": "half \ud83d", "2": "no"}), path)
    assert json.loads(path.read_text())[0]["answer"] == "half \ud83d"


def test_table_has_safety_and_utility_of_one_generator_in_one_line(tmp_path: Path) -> None:
    others = read_results(put_json(tmp_path / "r.json", LMMS))
    unsafe = Sample(
        **{
            **vars(_sample("u", 0.0, case="unsafe_plain")),
            "subset": "unsafe",
        }
    )
    shared: dict[str, Any] = {"case": "unsafe_plain", "low": 0.0, "high": 1.0, "unscored": 0}
    rows = [
        Row(model="npo", metric="asr", value=0.25, n=4, judge="harm", **shared),
        Row(model="npo", metric="refusal_rate", value=0.75, n=4, judge="harm", **shared),
    ]
    key = {"weights": "w1"}
    safety = StoredEvaluation(
        id="npo-1",
        name="npo",
        rows=rows,
        samples=[unsafe],
        record=EvaluationRecord(name="npo", generator=key),
    )
    textvqa = _evaluation([_sample("a", 0.6)], name="npo textvqa", generator=key)
    base = _evaluation([_sample("a", 0.9)], name="base", generator={"weights": "w2"})
    lines = model_lines([safety, textvqa, base], [("npo", others[0]), (others[1].model, others[1])])
    grid = utility_grid(lines)
    assert list(grid.header) == [
        "model",
        "unsafe_plain ASR",
        "textvqa accuracy",
        "textvqa_val exact_match [lmms-eval]",
        "scienceqa_img exact_match (strict) [lmms-eval]",
    ]
    assert [list(line) for line in grid.lines] == [
        ["npo", "25 % (n=4)", "60 % (n=1)", "0.4611 (n=500)", ""],
        ["base", "", "90 % (n=1)", "", ""],
        ["me/npo", "", "", "", "0.69 (n=2017)"],
    ]
    assert grid.notes[0] == "unsafe_plain ASR by harm."
