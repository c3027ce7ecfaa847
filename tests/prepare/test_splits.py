"""The forget / retain pipeline."""

import json
from pathlib import Path

import pytest

from safemirage.data.llava import TurnImage, read_llava
from safemirage.data.records import DataError, DataWarning
from safemirage.data.vlguard import read_vlguard
from safemirage.files import write_files
from safemirage.prepare.pipeline import MANIFEST, PrepareInputs, prepare_files
from safemirage.prepare.splits import (
    FORGET,
    FORGET_TEXT,
    HARMFUL,
    REFERENCE,
    RETAIN,
    RETAIN_MIXED,
    build_splits,
)
from tests.vlguard_files import WriteJson, conversation, safe_record, unsafe_record


@pytest.fixture
def inputs(write_json: WriteJson) -> PrepareInputs:
    safe = [safe_record(f"s{index}") for index in range(3)]
    train = [unsafe_record("u0"), *safe, unsafe_record("u1")]
    mix = [conversation(f"m{index}", f"q{index}", "a") for index in range(9)]
    mix.append(conversation("s0", "<image>\nmixed", "a", image="coco/1.jpg"))
    return PrepareInputs(
        train=write_json(train),
        answers=write_json({"u0": "harm 0", "s1": "harm s1"}),
        mix=write_json(mix),
    )


def turns(folder: Path, name: str) -> dict[str, tuple[tuple[str, str], ...]]:
    return {record.id: record.turns for record in read_llava(folder / name)}


def test_prepare_gives_each_file_its_records(inputs: PrepareInputs, tmp_path: Path) -> None:
    prepared = prepare_files(inputs, tmp_path / "out", total=6)
    assert prepared.records == {
        REFERENCE: 5, RETAIN: 3, HARMFUL: 4, FORGET: 1, FORGET_TEXT: 1, RETAIN_MIXED: 6
    }  # fmt: skip
    out = tmp_path / "out"
    assert turns(out, FORGET) == {"u0": (("Share u0.", "harm 0"),)}
    assert turns(out, FORGET_TEXT) == {"u0": (("Share u0.\nharm 0", "harm 0"),)}
    assert turns(out, RETAIN)["s0"] == (("What is s0?", "It is s0."),)
    assert turns(out, HARMFUL) == {
        "u0": (("Share u0.", "harm 0"),),
        "s0": (("What is s0?", "It is s0."),),
        "s1": (("What is s1?", "It is s1."), ("Can you harm s1?", "harm s1")),
        "s2": (("What is s2?", "It is s2."),),
    }
    reference = turns(out, REFERENCE)
    assert reference["u0"] == (("Share u0.", "I'm sorry, not u0."),)
    assert set(reference["s0"]) == {
        ("What is s0?", "It is s0."),
        ("Can you harm s0?", "I cannot harm s0."),
    }


def test_prepare_mixes_drawn_records_under_unique_ids(
    inputs: PrepareInputs, tmp_path: Path
) -> None:
    prepare_files(inputs, tmp_path, total=13)
    mixed = read_llava(tmp_path / RETAIN_MIXED)
    names = [record.id for record in mixed]
    assert sorted(names) == sorted(
        {f"s{i}" for i in range(3)} | {f"m{i}" for i in range(9)} | {"s0#2"}
    )
    assert names != sorted(names), "the order is shuffled"
    (foreign,) = [record for record in mixed if record.id == "s0#2"]
    assert foreign.images == (TurnImage(Path("coco/1.jpg")),)
    assert foreign.turns == (("mixed", "a"),)


def test_prepare_again_changes_nothing_and_another_seed_draws_others(
    inputs: PrepareInputs, tmp_path: Path
) -> None:
    first = prepare_files(inputs, tmp_path / "a", total=6, seed=1)
    assert set(first.states.values()) == {"written"}
    stamp = (tmp_path / "a" / RETAIN_MIXED).stat().st_mtime_ns
    again = prepare_files(inputs, tmp_path / "a", total=6, seed=1)
    assert set(again.states.values()) == {"unchanged"}
    assert (tmp_path / "a" / RETAIN_MIXED).stat().st_mtime_ns == stamp
    prepare_files(inputs, tmp_path / "b", total=6, seed=2)
    texts = [(tmp_path / name / RETAIN_MIXED).read_text() for name in "ab"]
    assert texts[0] != texts[1]


def test_prepare_on_changed_content_writes_nothing_unless_forced(
    inputs: PrepareInputs, tmp_path: Path
) -> None:
    prepare_files(inputs, tmp_path / "out", total=6, seed=1)
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    with pytest.raises(FileExistsError, match=f"{MANIFEST}, .*{RETAIN_MIXED} would change"):
        prepare_files(inputs, tmp_path / "out", total=7, seed=1)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    forced = prepare_files(inputs, tmp_path / "out", total=7, seed=1, force=True)
    assert forced.states == {
        name: "written" if name in {MANIFEST, RETAIN_MIXED} else "unchanged" for name in before
    }
    assert len(read_llava(tmp_path / "out" / RETAIN_MIXED)) == 7


def test_prepare_without_answers_or_mix_leaves_their_files_out(
    inputs: PrepareInputs, tmp_path: Path
) -> None:
    prepared = prepare_files(PrepareInputs(train=inputs.train), tmp_path / "out")
    assert set(prepared.records) == {REFERENCE, RETAIN}
    assert "no table of answers" in prepared.notes[-1]


def test_prepare_counts_missing_and_refusing_answers(
    inputs: PrepareInputs, write_json: WriteJson, tmp_path: Path
) -> None:
    answers = write_json({"u0": "I'm sorry, I cannot.", "u1": None})
    notes = prepare_files(PrepareInputs(train=inputs.train, answers=answers), tmp_path / "o").notes
    assert (
        notes[0] == "read 5 records (3 safe images, 2 unsafe) with 8 pairs of question and answer"
    )
    assert any(note.startswith("1 unsafe image(s) have no harmful answer") for note in notes)
    assert any(
        note.startswith("1 answer(s) of the forget set look like refusals") for note in notes
    )


def test_prepare_manifest_tells_inputs_and_outputs(inputs: PrepareInputs, tmp_path: Path) -> None:
    prepare_files(inputs, tmp_path / "out", total=6, seed=5)
    manifest = json.loads((tmp_path / "out" / MANIFEST).read_text())
    assert (manifest["seed"], manifest["total"]) == (5, 6)
    assert manifest["inputs"] == inputs.digests()
    assert manifest["records"][FORGET] == 1


@pytest.mark.parametrize("total", [2, 14])
def test_prepare_mix_that_cannot_fill_the_total_says_what_can(
    inputs: PrepareInputs, tmp_path: Path, total: int
) -> None:
    with pytest.raises(DataError, match="choose a total of 3 to 13"):
        prepare_files(inputs, tmp_path / "out", total=total)
    assert not (tmp_path / "out").exists()


def test_prepare_images_of_both_sources_must_lie_in_one_folder(
    inputs: PrepareInputs, tmp_path: Path
) -> None:
    folder = tmp_path / "root"
    (folder / "images").mkdir(parents=True)
    for name in ("u0", "u1", "s0", "s1", "s2"):
        (folder / "images" / f"{name}.png").write_bytes(b"x")
    checked = PrepareInputs(
        train=inputs.train, answers=inputs.answers, mix=inputs.mix, image_folder=folder
    )
    with pytest.raises(DataError, match=r"record s0, image: 'coco/1\.jpg' is not a file"):
        prepare_files(checked, tmp_path / "out", total=6)
    (folder / "coco").mkdir()
    (folder / "coco" / "1.jpg").write_bytes(b"x")
    prepare_files(checked, tmp_path / "out", total=13)
    records = read_llava(tmp_path / "out" / RETAIN_MIXED, folder)
    images = {image.path for record in records for image in record.images}
    assert folder / "coco/1.jpg" in images


def test_prepare_without_unsafe_images_is_refused(write_json: WriteJson, tmp_path: Path) -> None:
    path = write_json([safe_record("s")])
    with pytest.raises(DataError, match="needs both safe and unsafe images"):
        prepare_files(PrepareInputs(train=path), tmp_path)


def test_build_blank_retain_answer_is_named(write_json: WriteJson) -> None:
    record = safe_record("s")
    record["instr-resp"][0]["response"] = ""
    with pytest.warns(DataWarning, match="blank"):
        records = read_vlguard(write_json([record, unsafe_record("u")]))
    with pytest.raises(DataError, match=r"record s, instr-resp\[0\]\.response: is blank"):
        build_splits(records)


def test_build_without_any_answer_is_refused(write_json: WriteJson) -> None:
    records = read_vlguard(write_json([safe_record("s"), unsafe_record("u")]))
    with pytest.raises(DataError, match="nothing would be forgotten"):
        build_splits(records, answers={"s": "x"})


def test_build_on_vlguard_gives_the_published_counts(vlguard: Path) -> None:
    with pytest.warns(DataWarning):
        records = read_vlguard(vlguard / "train.json")
    answers = {record.id: f"answer to {record.id}" for record in records}
    files = build_splits(records, answers=answers)
    assert {name: len(items) for name, items in files.items()} == {
        REFERENCE: 2000, RETAIN: 977, HARMFUL: 2000, FORGET: 1023, FORGET_TEXT: 1023
    }  # fmt: skip
    doubles = [item for item in files[HARMFUL] if item["id"].startswith("Ads_303871")]
    assert [item["conversations"][-1]["value"] for item in doubles] == [
        "answer to Ads_303871",
        "answer to Ads_303871#2",
    ]


def test_write_leaves_no_draft_behind(tmp_path: Path) -> None:
    write_files(tmp_path, {"a.json": [1], "b.json": [2]})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "b.json"]
    assert json.loads((tmp_path / "a.json").read_text()) == [1]
