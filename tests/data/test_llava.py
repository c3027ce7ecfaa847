"""The reader of LLaVA conversation files."""

import json
from pathlib import Path
from typing import Any

import pytest

from safemirage.data.llava import (
    LlavaRecord,
    TurnImage,
    read_llava,
    read_training_set,
    record_tree,
    relative_to,
    to_llava,
)
from safemirage.data.records import DataError, DataWarning, SkipBad
from tests.cases import case_file
from tests.vlguard_files import WriteJson, conversation, safe_record


def problems_of(path: Path, folder: Path | None = None) -> dict[tuple[str, str], str]:
    with pytest.raises(DataError) as caught:
        read_llava(path, folder)
    for problem in caught.value.problems:
        assert str(problem) in str(caught.value)
    return {(problem.record, problem.field): problem.message for problem in caught.value.problems}


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "a.png").write_bytes(b"a")
    (tmp_path / "outside.png").write_bytes(b"secret")
    return folder


def test_read_conversation_gives_turns_without_image_mark(
    write_json: WriteJson, image_folder: Path
) -> None:
    path = write_json(
        [
            conversation(
                "a", "<image>\nWhat is it?", "A cat.", "Its colour?", "Grey.", image="sub/a.png"
            ),
            conversation("b", "Hello", "Hi"),
            conversation("c", "And this?\n<image>", "A dog.", image="sub/a.png"),
        ]
    )
    assert read_llava(path, image_folder) == [
        LlavaRecord(
            "a",
            (TurnImage(image_folder / "sub/a.png"),),
            (("What is it?", "A cat."), ("Its colour?", "Grey.")),
        ),
        LlavaRecord("b", (), (("Hello", "Hi"),)),
        LlavaRecord("c", (TurnImage(image_folder / "sub/a.png"),), (("And this?", "A dog."),)),
    ]


def test_read_without_folder_leaves_images_relative_and_unchecked(write_json: WriteJson) -> None:
    (record,) = read_llava(write_json([conversation("a", "q", "a", image="none/there.png")]))
    assert record.images == (TurnImage(Path("none/there.png")),)


def test_write_and_read_gives_the_same_record(write_json: WriteJson) -> None:
    record = LlavaRecord("a", (TurnImage(Path("x/y.png")),), (("one", "two"), ("three", "four")))
    written = to_llava("a", "x/y.png", record.turns)
    assert written["conversations"][0]["value"] == "<image>\none"
    assert [turn["from"] for turn in written["conversations"]] == ["human", "gpt"] * 2
    assert read_llava(write_json([written])) == [record]


def test_relative_to_undoes_the_image_folder(write_json: WriteJson, image_folder: Path) -> None:
    (record,) = read_llava(
        write_json([conversation("a", "q", "a", image="sub/a.png")]), image_folder
    )
    assert relative_to(record, image_folder).images == (TurnImage(Path("sub/a.png")),)


def test_read_bad_images_names_all_of_them(
    write_json: WriteJson, image_folder: Path, tmp_path: Path
) -> None:
    (image_folder / "link.png").symlink_to(tmp_path / "outside.png")
    (image_folder / "inner.png").symlink_to(image_folder / "sub" / "a.png")
    images = {
        "good": "sub/a.png",
        "inner": "inner.png",
        "missing": "sub/none.png",
        "folder": "sub",
        "above": "../outside.png",
        "hidden": "sub/../../outside.png",
        "absolute": str(tmp_path / "outside.png"),
        "link": "link.png",
        "nul": "a\0b",
        "number": 3,
    }
    records = [conversation(name, "q", "a") | {"image": image} for name, image in images.items()]
    problems = problems_of(write_json(records), image_folder)
    assert set(problems) == {(name, "image") for name in images if name not in {"good", "inner"}}
    assert "is not a file" in problems["missing", "image"]
    assert "leaves the image folder" in problems["above", "image"]
    assert "leaves the image folder" in problems["absolute", "image"]
    assert "is a link that leaves the image folder" in problems["link", "image"]


def test_read_path_out_of_the_folder_is_refused_without_a_folder_too(write_json: WriteJson) -> None:
    path = write_json([conversation("a", "q", "a", image="../a.png")])
    assert ("a", "image") in problems_of(path)


def test_read_link_to_the_folder_itself_is_fine(
    write_json: WriteJson, image_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "alias").symlink_to(image_folder)
    (record,) = read_llava(
        write_json([conversation("a", "q", "a", image="sub/a.png")]), tmp_path / "alias"
    )
    assert record.images == (TurnImage(tmp_path / "alias/sub/a.png"),)


def test_read_missing_image_folder_is_named(write_json: WriteJson, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"image folder .*none: no such folder"):
        read_llava(write_json([conversation("a", "q", "a")]), tmp_path / "none")


@pytest.mark.parametrize(
    ("record", "field"),
    [
        (conversation("x", "q", "  "), "conversations"),
        (conversation("x", "only a question"), "conversations"),
        ({"id": "x"}, "conversations"),
        ({"id": "x", "conversations": []}, "conversations"),
        ({"id": "x", "conversations": [{"from": "system", "value": "q"}]}, "conversations[0].from"),
        (
            {"id": "x", "conversations": [{"from": "human", "value": "q"}, {"from": "gpt"}]},
            "conversations[1].value",
        ),
        (
            {
                "id": "x",
                "conversations": [{"from": "human", "value": "q"}, {"from": "human", "value": "q"}],
            },
            "conversations[1].from",
        ),
        (conversation("x", "<image> twice <image>", "a", image="a.png"), "conversations"),
        (conversation("x", "q", "a") | {"id": ["x"]}, "id"),
        (conversation("x", "<image> one of two", "a") | {"image": ["a", "b"]}, "conversations"),
        (conversation("x", "q", "a", image="a.png") | {"images": ["b.png"]}, "images"),
    ],
)
def test_read_unusable_conversation_names_record_and_field(
    write_json: WriteJson, record: dict[str, Any], field: str
) -> None:
    path = write_json([conversation("fine", "q", "a"), record])
    name = record["id"] if isinstance(record["id"], str) else "#1"
    assert set(problems_of(path)) == {(name, field)}
    skip = SkipBad(1)
    with pytest.warns(DataWarning, match=f"1 of 2 records left out:\n  record {name}, "):
        assert [record.id for record in read_llava(path, skip=skip)] == ["fine"]
    (said,) = skip.left_out[str(path)]
    assert said.startswith(f"record {name}, {field}: ")


def test_read_problems_of_all_records_come_at_once(write_json: WriteJson) -> None:
    records = [
        "text",
        {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
        conversation("blank", "q", ""),
        conversation("twice", "q", "a"),
        conversation("twice", "q", "a"),
        conversation("out", "q", "a", image="/etc/passwd"),
    ]
    assert set(problems_of(write_json(records))) == {
        ("#0", "(whole record)"),
        ("blank", "conversations"),
        ("out", "image"),
    }


def test_read_many_problems_shows_the_first_and_counts_the_rest(write_json: WriteJson) -> None:
    path = write_json([conversation(f"r{index}", "q", "") for index in range(60)])
    with pytest.raises(DataError) as caught:
        read_llava(path)
    assert len(caught.value.problems) == 60
    assert "60 problem(s)" in str(caught.value)
    assert str(caught.value).endswith("... and 10 more")


def test_read_shared_id_warns_and_numbers_the_later_samples(write_json: WriteJson) -> None:
    path = write_json(
        [
            conversation("a", "1", "a"),
            conversation("a", "2", "a"),
            conversation("a#2", "3", "a"),
            conversation("a", "4", "a"),
        ]
    )
    with pytest.warns(
        DataWarning, match=r"1 id\(s\) stand on more than one record, 3 records in all"
    ):
        records = read_llava(path)
    assert [record.id for record in records] == ["a", "a#3", "a#2", "a#4"]
    assert [record.turns[0][0] for record in records] == ["1", "2", "3", "4"]


def test_read_unpaired_turns_are_dropped_and_counted(write_json: WriteJson) -> None:
    record = {
        "id": "a",
        "conversations": [
            {"from": "gpt", "value": "unasked"},
            {"from": "human", "value": "q"},
            {"from": "gpt", "value": "a"},
            {"from": "human", "value": "unanswered"},
        ],
    }
    with pytest.warns(DataWarning, match=r"2 turn\(s\) dropped"):
        (result,) = read_llava(write_json([record]))
    assert result.turns == (("q", "a"),)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "holds dict, but a list"),
        ("[]", "holds list, but a list of at least one record"),
        ("[1,", "is not JSON: .* at line 1, column"),
    ],
)
def test_read_file_that_is_no_list_says_what_it_is(
    write_json: WriteJson, text: str, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        read_llava(write_json(text))


def test_read_unreadable_file_says_why(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read: No such file"):
        read_llava(tmp_path / "none.json")
    with pytest.raises(DataError, match="cannot be read: Is a directory"):
        read_llava(tmp_path)
    (tmp_path / "latin.json").write_bytes(b'["\xfc"]')
    with pytest.raises(DataError, match="is not UTF-8 text"):
        read_llava(tmp_path / "latin.json")


def test_read_training_set_asks_for_a_folder_where_records_have_images(
    write_json: WriteJson, image_folder: Path
) -> None:
    path = write_json(
        [conversation("text", "q", "a"), conversation("seen", "q", "a", image="sub/a.png")]
    )
    with pytest.raises(
        DataError, match=r"record seen, image: 'sub/a\.png' needs data\.image_folder"
    ):
        read_training_set(path, None)
    assert read_training_set(path, image_folder) == read_llava(path, image_folder)
    text_only = write_json([conversation("text", "q", "a")])
    assert len(read_training_set(text_only, None)) == 1


def read_case(name: str) -> list[LlavaRecord]:
    return read_llava(case_file(f"llava/{name}"))


def test_case_a_mark_in_a_later_turn_stays_there() -> None:
    (record,) = read_case("mark_turn2.json")
    assert record.images == (TurnImage(Path("ok.png"), turn=1),)
    assert record.turns == (("hello", "hi"), ("and this?", "a cup"))
    assert record_tree(record)["conversations"][2]["value"] == "<image>\nand this?"


def test_case_a_mark_without_an_image_is_text() -> None:
    (record,) = read_case("text_mark.json")
    assert record.images == ()
    assert record.turns == (("what does the html tag <image> do", "nothing"),)


def test_case_a_repeated_record_is_read_with_a_count() -> None:
    with pytest.warns(DataWarning) as caught:
        first, second = read_case("duprec.json")
    assert any("1 record(s) repeat another word for word (a)" in str(w.message) for w in caught)
    assert (first.id, second.id) == ("a", "a#2")
    assert first.turns == second.turns


@pytest.mark.parametrize("nothing", [None, "", []])
def test_case_null_or_empty_is_no_image(write_json: WriteJson, nothing: object) -> None:
    assert [len(record.images) for record in read_case("image_null.json")] == [0, 1]
    (record,) = read_llava(write_json([conversation("a", "q", "a") | {"image": nothing}]))
    assert record.images == ()


def test_case_a_list_of_images_is_that_many(write_json: WriteJson) -> None:
    (record,) = read_case("image_list1.json")
    assert record.images == (TurnImage(Path("ok.png")),)
    several = conversation("a", "<image> or <image>?", "x", "and\n<image>", "y")
    path = write_json([several | {"image": ["1.png", "2.png", "3.png"]}])
    (record,) = read_llava(path)
    assert [(str(image.path), image.turn) for image in record.images] == [
        ("1.png", 0),
        ("2.png", 0),
        ("3.png", 1),
    ]
    assert record.turns == (("or ?", "x"), ("and", "y"))
    assert read_llava(write_json([record_tree(record)]))[0].images == record.images


def test_case_messages_and_images_are_read_as_conversations(write_json: WriteJson) -> None:
    (record,) = read_case("messages.json")
    assert (record.id, record.images) == ("#0", (TurnImage(Path("ok.png")),))
    assert record.turns == (("what", "cup"),)
    parts = [{"type": "image", "image": "a.png"}, {"type": "text", "text": "what"}]
    turns = [{"role": "user", "content": parts}, {"role": "assistant", "content": "cup"}]
    (record,) = read_llava(write_json([{"id": "x", "messages": turns}]))
    assert (record.images, record.turns) == ((TurnImage(Path("a.png")),), (("what", "cup"),))
    (record,) = read_llava(write_json([{"id": "x", "conversations": turns}]))
    assert record.turns == (("what", "cup"),)
    parts = [{"type": "audio"}]
    problems = problems_of(
        write_json([{"id": "x", "messages": [{"role": "user", "content": parts}]}])
    )
    assert "is not text" in problems["x", "messages[0].content"]


def test_case_json_lines_are_read(tmp_path: Path) -> None:
    records = read_case("jsonl.jsonl")
    assert [record.id for record in records] == ["0", "1"]
    lines = [json.dumps(record_tree(record), ensure_ascii=False) for record in records]
    path = tmp_path / "named_otherwise.json"
    path.write_text("\r\n".join([*lines, ""]).replace("a cup", "a\u2028cup"), encoding="utf-8")
    assert read_llava(path)[0].turns[0][1] == "a\u2028cup"
    (tmp_path / "one.jsonl").write_text(lines[0])
    assert len(read_llava(tmp_path / "one.jsonl")) == 1
    (tmp_path / "bad.jsonl").write_text("\n".join([lines[0], "", "{", "]"]))
    assert set(problems_of(tmp_path / "bad.jsonl")) == {
        ("line 3", "(whole record)"),
        ("line 4", "(whole record)"),
    }


def test_case_a_byte_order_mark_is_no_part_of_the_text() -> None:
    assert [record.id for record in read_case("bom.json")] == ["a"]


def test_case_a_blank_answer_in_a_later_turn_is_warned_about() -> None:
    with pytest.warns(DataWarning, match=r"1 answer\(s\) are blank \(a turn 2\)"):
        (record,) = read_case("emptyans2.json")
    assert record.turns[1] == ("more", "")


def test_case_half_a_character_names_record_and_field() -> None:
    path = case_file("llava/surrogate.json")
    assert set(problems_of(path)) == {("a", "conversations[1].value")}
    assert "half of a character at place 5" in problems_of(path)["a", "conversations[1].value"]
    assert set(problems_of(case_file("llava/surrogate_img.json"))) == {("a", "image")}


def test_read_json_too_deep_to_be_read_is_refused(write_json: WriteJson) -> None:
    with pytest.raises(DataError, match="is not JSON that can be read"):
        read_llava(write_json("[" * 100_000))


def test_read_marks_in_answers_are_text(write_json: WriteJson) -> None:
    (record,) = read_llava(write_json([conversation("a", "tag?", "<image>", image="a.png")]))
    assert (record.images, record.turns[0][1]) == ((TurnImage(Path("a.png")),), "<image>")


def test_read_an_image_of_a_dropped_turn_is_named(write_json: WriteJson) -> None:
    path = write_json([conversation("a", "q", "a", "<image>\nmore", image="a.png")])
    with pytest.raises(DataError, match="stands in a question without an answer"):
        read_llava(path)


def test_skip_bad_refuses_more_than_it_allows_and_a_file_without_a_good_record(
    write_json: WriteJson,
) -> None:
    bad = [conversation(name, "q", "") for name in "xy"]
    with pytest.raises(DataError, match=r"2 problem\(s\) in 2 of 3 records; skip_bad allows 1"):
        read_llava(write_json([conversation("fine", "q", "a"), *bad]), skip=SkipBad(1))
    with pytest.raises(DataError, match=r"2 of 2 records; skip_bad allows 9"):
        read_llava(write_json(bad), skip=SkipBad(9))


@pytest.mark.parametrize(
    ("record", "named"),
    [
        ({"instruction": "q", "output": "a"}, "Alpaca's format"),
        ({"question": "q", "answer": "a"}, "pairs of question and answer"),
        ({"prompt": "q", "chosen": "a", "rejected": "b"}, "pairs of preferences"),
        (safe_record("a"), "VLGuard's format"),
        ({"conversations": [{"from": "system", "value": "s"}]}, "a system prompt is no part"),
        (conversation("a", "q", "a", image="https://a/b.png"), "is a URL; save it as a file"),
        (conversation("a", "q", "a", image="data:image/png;base64,AA"), "is a URL; save it"),
    ],
)
def test_read_names_what_it_does_not_read(
    write_json: WriteJson, record: dict[str, Any], named: str
) -> None:
    with pytest.raises(DataError, match=named):
        read_llava(write_json([record]))


@pytest.mark.parametrize(
    ("name", "content", "named"),
    [
        ("a.parquet", b"PAR1\x15\xff", "is Parquet, which is not read here"),
        ("a.json.gz", b"\x1f\x8b\x08", "is compressed by gzip"),
        ("a.json", '[{"id": 1}]'.encode("utf-16"), "is UTF-16"),
        ("a.csv", b"id,question\n1,q\n", "is a table of text"),
    ],
)
def test_read_names_files_of_other_kinds(
    tmp_path: Path, name: str, content: bytes, named: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=named):
        read_llava(tmp_path / name)


def test_read_forgives_a_list_in_an_object_and_a_single_record(write_json: WriteJson) -> None:
    record = conversation("a", "q", "a")
    assert read_llava(write_json({"version": 1, "data": [record]})) == read_llava(
        write_json([record])
    )
    assert read_llava(write_json(record)) == read_llava(write_json([record]))
