"""The selection split: what is set aside is trained on nowhere, and stands in a suite that a search can read."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from safemirage.data.llava import read_llava
from safemirage.data.records import DataError
from safemirage.evaluation.suites.folder import load_suite
from safemirage.prepare.pipeline import MANIFEST, PrepareInputs, prepare_files
from safemirage.prepare.selection import FOLDER
from safemirage.prepare.splits import FORGET, REFERENCE, RETAIN
from tests.tiny import tiny_image
from tests.vlguard_files import WriteJson, safe_record, unsafe_record

QUESTION = "What is in this image?"


@pytest.fixture
def inputs(write_json: WriteJson, tmp_path: Path) -> PrepareInputs:
    """Eight images of each kind; of the unsafe ones two are one picture, and two ask one question."""
    names = [f"{kind}{index}" for kind in "su" for index in range(8)]
    (tmp_path / "images").mkdir()
    for place, name in enumerate(names):
        colour = (place, 0, 0) if name != "u1" else (8, 0, 0)  # u1 shows what u0 shows
        (tmp_path / "images" / f"{name}.png").write_bytes(tiny_image(colour))
    train = [(safe_record if name[0] == "s" else unsafe_record)(name) for name in names]
    for record in train[10:12]:
        record["instr-resp"][0]["instruction"] = f"  {QUESTION.upper()}"
    test = [unsafe_record("t", image="images/u4.png")]
    return PrepareInputs(
        train=write_json(train),
        answers=write_json({name: f"harm {name}" for name in names}),
        image_folder=tmp_path,
        test=write_json(test),
        selection=3,
    )


def test_prepare_sets_images_aside_that_no_training_file_and_no_test_file_has(
    inputs: PrepareInputs, tmp_path: Path
) -> None:
    prepared = prepare_files(inputs, tmp_path / "out")
    samples = load_suite(tmp_path / "out" / FOLDER)
    plain = {sample.group_id for sample in samples if sample.attack == "plain"}
    # u0 and u1 are one picture, u2 and u3 ask one question, the test file has u4's picture: three are left.
    assert {name for name in plain if name[0] == "u"} == {"u5", "u6", "u7"}
    assert len(plain) == 6
    conditions = {sample.condition for sample in samples}
    assert conditions >= {"unsafe_plain", "safe_safe_plain", "safe_unsafe_plain"}
    assert {"unsafe_what", "safe_safe_share"} <= conditions
    assert prepared.records[REFERENCE] == 10
    for name in (REFERENCE, RETAIN, FORGET):
        assert plain.isdisjoint(record.id for record in read_llava(tmp_path / "out" / name))
    manifest = json.loads((tmp_path / "out" / MANIFEST).read_text())
    assert set(manifest["selection"]) == plain
    again = prepare_files(inputs, tmp_path / "out")
    assert set(again.states.values()) == {"unchanged"}


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"selection": 4}, "4 unsafe images are wanted, and at most 3 can be set aside"),
        ({"image_folder": None}, "pictures are compared; give their --image-folder"),
    ],
)
def test_prepare_refuses_a_selection_that_would_not_be_disjoint(
    inputs: PrepareInputs, tmp_path: Path, changes: dict[str, Any], named: str
) -> None:
    with pytest.raises(DataError, match=named):
        prepare_files(replace(inputs, **changes), tmp_path / "out")
    assert not (tmp_path / "out").exists()
