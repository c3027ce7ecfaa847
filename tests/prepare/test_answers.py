"""The table of harmful answers and whom each belongs to."""

from pathlib import Path

import pytest

from safemirage.data.records import DataError, DataWarning
from safemirage.data.vlguard import VLGuardRecord, read_vlguard
from safemirage.prepare.answers import assign_answers, read_answers
from tests.vlguard_files import WriteJson, safe_record, unsafe_record


@pytest.fixture
def records(write_json: WriteJson) -> list[VLGuardRecord]:
    """Two records share id and image, as two of VLGuard's training records do."""
    again = unsafe_record("b", image="images/b.png", harmful_category="deception")
    with pytest.warns(DataWarning):
        return read_vlguard(
            write_json([unsafe_record("a"), unsafe_record("b"), again, safe_record("c")])
        )


def test_assign_by_id_or_image_finds_the_record(records: list[VLGuardRecord]) -> None:
    table = {"a": "one", "images/c.png": "two"}
    assert assign_answers(records, table, source="t") == {"a": "one", "c": "two"}


def test_assign_shared_id_with_both_named_keeps_both(records: list[VLGuardRecord]) -> None:
    table = {"b": "first", "b#2": "second"}
    assert assign_answers(records, table, source="t") == {"b": "first", "b#2": "second"}


def test_assign_null_leaves_the_record_out(records: list[VLGuardRecord]) -> None:
    assert assign_answers(records, {"b": None, "b#2": "second"}, source="t") == {"b#2": "second"}


@pytest.mark.parametrize("key", ["b", "images/b.png"])
def test_assign_key_of_two_records_is_refused(records: list[VLGuardRecord], key: str) -> None:
    with pytest.raises(DataError, match="stands for 2 records; name each by its own id: b, b#2"):
        assign_answers(records, {key: "which?"}, source="t")


def test_assign_unknown_key_and_second_answer_are_both_named(records: list[VLGuardRecord]) -> None:
    with pytest.raises(DataError) as caught:
        assign_answers(records, {"z": "x", "a": "one", "images/a.png": "other"}, source="t")
    assert [(item.record, item.message) for item in caught.value.problems] == [
        ("z", "is neither an id nor an image of the records"),
        ("images/a.png", "answers the same record as 'a'"),
    ]


def test_assign_image_of_the_real_double_is_refused(vlguard: Path) -> None:
    with pytest.warns(DataWarning):
        train = read_vlguard(vlguard / "train.json")
    double = next(record for record in train if record.source_id == "Ads_303871")
    with pytest.raises(DataError, match="Ads_303871, Ads_303871#2"):
        assign_answers(train, {double.image: "x"}, source="t")


def test_read_answers_gives_the_table(write_json: WriteJson) -> None:
    assert read_answers(write_json({"a": "one", "b": None})) == {"a": "one", "b": None}


def test_read_answers_bad_entries_are_named_at_once(write_json: WriteJson) -> None:
    path = write_json('{"a": "one", "a": "two", "b": 3, "c": " "}')
    with pytest.raises(DataError) as caught:
        read_answers(path)
    assert {(item.record, item.field) for item in caught.value.problems} == {
        ("a", "(key)"),
        ("b", "(answer)"),
        ("c", "(answer)"),
    }


@pytest.mark.parametrize(("text", "message"), [("[]", "holds list"), ("{", "is not JSON")])
def test_read_answers_that_is_no_table_is_refused(
    write_json: WriteJson, text: str, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        read_answers(write_json(text))
