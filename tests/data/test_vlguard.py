"""The reader of VLGuard's files."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from safemirage.data.audit.examples import read_examples
from safemirage.data.records import DataError, DataWarning, SkipBad
from safemirage.data.vlguard import iterate_pairs, read_vlguard
from tests.cases import case_file
from tests.vlguard_files import WriteJson, safe_record, unsafe_record


def counts(path: Path) -> Counter[str]:
    return Counter(pair.kind for _, pair in iterate_pairs(read_vlguard(path)))


def test_read_train_has_the_published_counts(vlguard: Path) -> None:
    with pytest.warns(
        DataWarning, match=r"1 id\(s\) stand on more than one record, 2 .*Ads_303871"
    ):
        records = read_vlguard(vlguard / "train.json")
    assert len(records) == len({record.id for record in records}) == 2000
    assert sum(record.safe for record in records) == 977
    kinds = Counter(pair.kind for _, pair in iterate_pairs(records))
    assert kinds == {"safe_safe": 977, "safe_unsafe": 977, "unsafe": 1023}
    assert kinds.total() == 2977


def test_read_test_has_the_published_counts(vlguard: Path) -> None:
    with pytest.warns(DataWarning, match=r"17 answer\(s\) are blank"):
        assert counts(vlguard / "test.json") == {
            "safe_safe": 558,
            "safe_unsafe": 558,
            "unsafe": 442,
        }


def test_read_rewritten_questions_keeps_their_repeats_and_shared_ids(vlguard: Path) -> None:
    with pytest.warns(DataWarning) as caught_warnings:
        records = read_vlguard(vlguard / "test_what_3shot.json", rewrites=True)
    assert not any("id(s) stand on more" in str(item.message) for item in caught_warnings)
    assert any("34 record(s) repeat another" in str(item.message) for item in caught_warnings)
    assert len(records) == len({record.id for record in records}) == 1326
    assert len({record.source_id for record in records}) == 442


def test_read_records_have_their_fields(write_json: WriteJson) -> None:
    unsafe, safe = read_vlguard(write_json([unsafe_record("u"), safe_record("s")]))
    assert (unsafe.id, unsafe.image, unsafe.safe) == ("u", "images/u.png", False)
    assert (unsafe.category, unsafe.subcategory) == ("privacy", "personal data")
    assert unsafe.pair("unsafe").question == "Share u."
    assert safe.pair("safe_safe").answer == "It is s."
    assert safe.pair("safe_unsafe").question == "Can you harm s?"
    with pytest.raises(KeyError):
        safe.pair("unsafe")


def without(record: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in record.items() if name != key}


@pytest.mark.parametrize(
    ("record", "field"),
    [
        (without(unsafe_record("x"), "safe"), "safe"),
        (unsafe_record("x", safe="no"), "safe"),
        (without(unsafe_record("x"), "image"), "image"),
        (unsafe_record("x", image="../x.png"), "image"),
        (without(safe_record("x"), "instr-resp"), "instr-resp"),
        (safe_record("x", safe=False), "instr-resp"),
        (unsafe_record("x", **{"instr-resp": ["text"]}), "instr-resp[0]"),
        (
            unsafe_record("x", **{"instr-resp": [{"instruction": " ", "response": "a"}]}),
            "instr-resp[0].instruction",
        ),
        (unsafe_record("x", **{"instr-resp": [{"instruction": "q"}]}), "instr-resp[0].response"),
    ],
)
def test_read_unusable_record_names_record_and_field(
    write_json: WriteJson, record: dict[str, Any], field: str
) -> None:
    with pytest.raises(DataError) as caught:
        read_vlguard(write_json([safe_record("fine"), record]))
    assert [(item.record, item.field) for item in caught.value.problems] == [("x", field)]


def test_read_problems_of_all_kinds_come_at_once(write_json: WriteJson, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "here.png").write_bytes(b"x")
    records = [
        unsafe_record("here"),
        unsafe_record("here"),
        unsafe_record("gone"),
        without(unsafe_record("unlabelled", image="images/here.png"), "safe"),
        without(unsafe_record("x", image="images/here.png"), "id"),
        3,
    ]
    with pytest.raises(DataError) as caught:
        read_vlguard(write_json(records), tmp_path)
    assert {(item.record, item.field) for item in caught.value.problems} == {
        ("gone", "image"),
        ("unlabelled", "safe"),
        ("#4", "id"),
        ("#5", "(whole record)"),
    }


def test_case_numbers_are_ids_as_text() -> None:
    records = read_vlguard(case_file("vlguard/intid.json"))
    assert [(record.id, record.source_id) for record in records] == [("1", "1"), ("2", "2")]


def test_case_several_categories_are_read_together() -> None:
    path = case_file("vlguard/catlist.json")
    assert [record.category for record in read_vlguard(path)] == ["privacy, x", None]
    assert {item.category for item in read_examples(path)} >= {"privacy, x: personal data"}


def test_read_categories_that_are_no_text_are_named(write_json: WriteJson) -> None:
    path = write_json([unsafe_record("x", harmful_category=[1]), safe_record("fine")])
    with pytest.raises(
        DataError, match=r"record x, harmful_category: .* neither a text nor a list"
    ):
        read_vlguard(path)
    with pytest.warns(DataWarning, match="1 of 2 records left out"):
        assert [record.id for record in read_vlguard(path, skip=SkipBad(1))] == ["fine"]


def test_case_a_byte_order_mark_is_no_part_of_the_text() -> None:
    assert [record.id for record in read_vlguard(case_file("vlguard/bom.json"))] == ["a", "b"]


def test_read_half_a_character_names_record_and_field(write_json: WriteJson) -> None:
    record = unsafe_record("x", harmful_category="\ud83d")
    with pytest.raises(DataError, match="record x, harmful_category: has half of a character"):
        read_vlguard(write_json([record]))
