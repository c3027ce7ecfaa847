"""Suites: what is wrong is named, all at once; draws are by question."""

import json
from pathlib import Path
from typing import Any

import pytest

from safemirage.evaluation.suites.folder import (
    SuiteError,
    load_suite,
    sample_questions,
    suite_digest,
)
from tests.evaluation.samples import KNIFE, make_image, make_sample, sample_record, write_suite


def spoilt(folder: Path, changes: dict[str, dict[str, Any]], *more: object) -> Path:
    """A suite whose file is changed afterwards: fields of samples by their name, and further records."""
    path = write_suite(folder, [sample_record(name) for name in changes]) / "suite.json"
    tree = json.loads(path.read_text())
    for record in tree["samples"]:
        record |= changes[record["sample_id"]]
    tree["samples"] += more
    path.write_text(json.dumps(tree))
    return folder


def test_suite_with_images_is_read_in_order(tmp_path: Path) -> None:
    folder = write_suite(
        tmp_path, [sample_record("b"), sample_record("a", image=None, target={}, subset="safe")]
    )
    samples = load_suite(folder)
    assert [sample.sample_id for sample in samples] == ["b", "a"]
    assert samples[0].image is not None
    assert samples[0].image.data == make_image().data
    assert samples[0].target == KNIFE
    assert (samples[1].image, samples[1].subset) == (None, "safe")


def test_suite_with_many_faults_names_condition_and_field_of_each(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "text.png").write_text("no image")
    folder = spoilt(
        tmp_path,
        {
            "a": {"subset": "maybe"},
            "b": {"question": "  "},
            "c": {"image": "images/none.png"},
            "d": {"image": "../outside.png"},
            "e": {"image": "images/text.png"},
            "f": {"target": {"unsafe": True}},
            "g": {"colour": "red"},
            "i": {},
            "j": {"sample_id": "i"},
        },
        {"sample_id": "h"},
        "text",
    )
    with pytest.raises(SuiteError) as caught:
        load_suite(folder)
    text = str(caught.value)
    for expected in (
        "sample 0 (a), field subset: 'maybe' is not allowed",
        "sample 1 (b), field question: '  ' is not text",
        "sample 2 (c), field image: 'images/none.png' cannot be read: No such file",
        "sample 3 (d), field image: '../outside.png' leaves the suite's folder",
        "sample 4 (e), field image: 'images/text.png' is not an image",
        "sample 5 (f), field target: ",
        "sample 6 (g), field colour: unknown; allowed: attack,",
        "sample 9 (h), field question: None",
        "sample 10: is str",
        "sample 8 (i), field sample_id: stands in an earlier sample too",
    ):
        assert expected in text


def test_suite_with_very_many_faults_shows_the_first_and_counts_the_rest(tmp_path: Path) -> None:
    folder = spoilt(tmp_path, {str(index): {"subset": "x"} for index in range(50)})
    with pytest.raises(SuiteError, match=r"\.\.\. and 30 more"):
        load_suite(folder)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"samples": []}', '{"samples": {}}'])
def test_suite_file_of_another_shape_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "suite.json").write_text(text)
    with pytest.raises(SuiteError, match=r"suite\.json"):
        load_suite(tmp_path)


def test_suite_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SuiteError, match="cannot be read: No such file"):
        load_suite(tmp_path / "absent")


def test_sample_questions_draws_whole_questions_of_each_condition() -> None:
    samples = [
        make_sample(f"{name}-{group}-{attempt}", condition=name, group_id=group)
        for name in ("unsafe_plain", "unsafe_what")
        for group in "abcdefgh"
        for attempt in range(3 if name == "unsafe_what" else 1)
    ]
    drawn = sample_questions(samples, 3, seed=1)
    assert len(drawn) == 3 + 9
    groups = {
        name: {c.group_id for c in drawn if c.condition == name}
        for name in ("unsafe_plain", "unsafe_what")
    }
    assert groups["unsafe_plain"] == groups["unsafe_what"]
    assert drawn == [condition for condition in samples if condition in drawn]
    assert set(map(id, sample_questions(samples, 2, seed=1))) <= set(map(id, drawn))
    assert {c.group_id for c in sample_questions(samples, 3, seed=2)} != groups["unsafe_what"]
    assert sample_questions(samples[::-1], 3, seed=1) == drawn[::-1]
    assert sample_questions(samples, None, seed=1) == samples
    assert sample_questions(samples, 100, seed=1) == samples


def test_suite_digest_changes_with_an_image(tmp_path: Path) -> None:
    red, blue = (
        make_sample("a", image=make_image("red")),
        make_sample("a", image=make_image("blue")),
    )
    assert suite_digest([red]) != suite_digest([blue])
    assert suite_digest([red]) == suite_digest([make_sample("a", image=make_image("red"))])
    assert json.dumps(suite_digest([red]))
