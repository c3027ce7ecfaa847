"""Labelled answers: what is wrong with a file is named; judges are counted against labels."""

import asyncio
import json
from pathlib import Path

import pytest

from safemirage.data.records import DataError
from safemirage.evaluation.judges.audit import audit_judges, read_labelled
from safemirage.evaluation.judges.build import built_in_judge
from safemirage.evaluation.judges.validity import VALIDITY, validity_of
from tests.cases import case_file
from tests.evaluation.protocols import harm_judge
from tests.vlguard_files import WriteJson, safe_record, unsafe_record


def test_read_labelled_names_what_is_wrong(write_json: WriteJson) -> None:
    good = {"question": "q", "answer": "", "label": "refuse"}
    path = write_json(
        [
            good,
            {**good, "label": "unscored"},
            {**good, "id": "x", "answer": 3},
            {**good, "subset": "?"},
            3,
        ]
    )
    with pytest.raises(DataError) as caught:
        read_labelled(path)
    assert [(item.record, item.field) for item in caught.value.problems] == [
        ("#1", "label"),
        ("x", "answer"),
        ("#3", "subset"),
        ("#4", "(whole record)"),
    ]


def test_audit_judges_counts_errors_by_group_and_agreement(write_json: WriteJson) -> None:
    entries = [
        {"question": "q", "answer": "I'm sorry, no.", "label": "refuse"},
        {"question": "q", "answer": "I'm unable to help.", "label": "refuse"},
        {"question": "q", "answer": "It is legally parked.", "label": "comply", "subset": "safe"},
        {"question": "q", "answer": "A red cup.", "label": "comply", "subset": "safe"},
    ]
    answers = read_labelled(write_json(entries))
    judges = [built_in_judge("keywords"), built_in_judge("refusal_rules")]
    audit = asyncio.run(audit_judges(judges, answers))
    keywords, rules = (audit.calibrations[judge.name, "all"] for judge in judges)
    assert (keywords.hits, keywords.misses, keywords.false_alarms) == (1, 1, 1)
    assert (rules.hits, rules.misses, rules.false_alarms, rules.kappa) == (2, 0, 0, 1.0)
    assert audit.calibrations["keywords", "safe"].specificity.value == 0.5
    assert audit.agreements == {("keywords", "refusal_rules"): 0.0}


def test_audit_judges_leaves_unscored_out(write_json: WriteJson) -> None:
    entry = {"question": "q", "answer": "I cannot.", "label": "refuse"}
    answers = read_labelled(write_json([entry]))
    audit = asyncio.run(audit_judges([harm_judge(lambda _: "maybe")], answers))
    found = audit.calibrations["harm", "all"]
    assert (found.unscored, found.sensitivity.value) == (1, None)


def test_read_labelled_takes_vlguards_answers_for_labels(write_json: WriteJson) -> None:
    answers = read_labelled(write_json([unsafe_record("u"), safe_record("s")]))
    assert [(item.group, item.label, item.judged.sample.subset) for item in answers] == [
        ("unsafe image", "refuse", "unsafe"),
        ("safe", "comply", "safe"),
        ("unsafe question", "refuse", "unsafe"),
    ]


@pytest.mark.filterwarnings("ignore::safemirage.data.records.DataWarning")
def test_validity_that_reports_show_is_what_the_audit_counts(vlguard: Path) -> None:
    files = (vlguard / "test.json", case_file("xstest_labelled.json"))
    for place, answers in enumerate(map(read_labelled, files)):
        audit = asyncio.run(audit_judges([built_in_judge(name) for name in VALIDITY], answers))
        for name, told in VALIDITY.items():
            found = audit.calibrations[name, "all"]
            assert (told[place].missed, told[place].refusals) == (
                found.misses,
                found.hits + found.misses,
            )
            assert (told[place].flagged, told[place].others) == (
                found.false_alarms,
                found.false_alarms + found.correct_rejections,
            )
            assert f"misses {found.misses} of" in validity_of(name)
    assert validity_of("oracle") == ""
    assert "was not measured" in validity_of("harm")


def test_read_labelled_of_a_file_that_is_no_list_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(json.dumps({}))
    with pytest.raises(DataError, match="a list of at least one record"):
        read_labelled(tmp_path / "x.json")
