"""The sets of utility as cases: prompts, truth, images, and what is wrong with bad files."""

import json
from pathlib import Path
from typing import Any

import pytest

from safemirage.data.records import DataError
from tests.evaluation.sets.files import cases_of, put_json
from tests.evaluation.sets.utility_files import scienceqa, textvqa, vizwiz, vqav2

SHORT = "\nAnswer the question using a single word or phrase."


def _edit(path: str, **fields: Any) -> None:
    """Changes the first record of a file's list."""
    tree = json.loads(Path(path).read_text())
    records = (
        tree if isinstance(tree, list) else tree[next(k for k in tree if isinstance(tree[k], list))]
    )
    records[0] |= fields
    put_json(Path(path), tree)


def test_textvqa_asks_with_a_capital_and_carries_ten_answers(tmp_path: Path) -> None:
    first, second, _ = cases_of(textvqa(tmp_path))
    assert (first.sample_id, first.case, first.subset) == ("textvqa/34602", "textvqa", "safe")
    assert first.question == f"What is on the sign?{SHORT}"
    assert json.loads(first.truth["references"])[0] == "a red knife"
    assert (first.truth["scoring"], first.truth["question_id"]) == ("textvqa", "34602")
    assert first.image is second.image


def test_textvqa_takes_llavas_prompts_with_the_words_read(tmp_path: Path) -> None:
    tree = textvqa(tmp_path)
    texts = [
        ("0b2", f"What time?{SHORT}"),
        ("0a1", f"What is on the sign?\nReference OCR token: STOP, ALL{SHORT}"),
        ("0a1", f"Reference OCR token: STOP\nHow many letters?{SHORT}"),
    ]
    lines = [
        json.dumps({"question_id": image, "image": f"{image}.jpg", "text": text})
        for image, text in texts
    ]
    path = tmp_path / "ocr.jsonl"
    path.write_text("\n".join(lines) + "\n")
    cases = cases_of({**tree, "questions": str(path)})
    assert [case.question for case in cases] == [text for _, text in texts]
    assert [case.sample_id for case in cases] == [
        "textvqa/34604",
        "textvqa/34602",
        "textvqa/34603",
    ]
    path.write_text("\n".join([lines[0], lines[0], '{"question_id": "0a1", "text": "Who?"}']))
    with pytest.raises(DataError) as caught:
        cases_of({**tree, "questions": str(path)})
    text = str(caught.value)
    assert "record line 2, question_id, text: asks question 34604 a second time" in text
    assert "record line 3, question_id, text: no question of the annotations" in text
    path.write_text(f"{lines[0]}\n{{")
    with pytest.raises(DataError, match=r"record line 2, \(whole record\): is not JSON"):
        cases_of({**tree, "questions": str(path)})


def test_textvqa_names_bad_records(tmp_path: Path) -> None:
    tree = textvqa(tmp_path)
    _edit(tree["annotations"], answers=["x"] * 9, image_id="gone")
    with pytest.raises(DataError) as caught:
        cases_of(tree)
    assert "record 34602, answers: holds 9 texts, but each question has 10" in str(caught.value)
    assert "record 34602, image_id: 'gone.jpg' is not a file" in str(caught.value)


def test_scienceqa_asks_the_splits_questions_as_llava_does(tmp_path: Path) -> None:
    drawn, text, _ = cases_of(scienceqa(tmp_path))
    assert drawn.question == (
        "Context: Look at the tank.\nWhich one floats?\nA. stone\nB. cork"
        "\nAnswer with the option's letter from the given choices directly."
    )
    assert text.question.startswith("Which one floats?\nA. a\nB. b\nC. c\n")
    assert (text.image, text.truth["choices"], text.truth["right_choice"]) == (None, "3", "B")
    assert drawn.image is not None
    assert drawn.truth["has_hint"] == "true"
    assert (text.truth["subject"], text.truth["grade"]) == ("language science", "grade8")


def test_scienceqa_names_bad_problems_and_splits(tmp_path: Path) -> None:
    tree = scienceqa(tmp_path)
    problems = json.loads(Path(tree["problems"]).read_text())
    problems["4"] |= {"answer": 2, "hint": None}
    problems["5"] |= {"choices": ["only"]}
    del problems["7"]
    put_json(Path(tree["problems"]), problems)
    with pytest.raises(DataError) as caught:
        cases_of(tree)
    text = str(caught.value)
    assert "record 4, answer: 2 is not the index of a choice" in text
    assert "record 4, hint: None is not text" in text
    assert "record 5, choices: ['only'] must be a list of 2 to 5 texts" in text
    assert "record 7, (whole record): is in the split 'test', but not here" in text
    with pytest.raises(DataError, match="no list of question ids for the split 'val'"):
        cases_of({**tree, "split": "val"})


def test_vqav2_joins_questions_and_annotations(tmp_path: Path) -> None:
    cases = cases_of(vqav2(tmp_path))
    assert [case.sample_id for case in cases] == ["vqav2/1000", "vqav2/1001", "vqav2/2000"]
    assert cases[0].question == f"Is it 1000?{SHORT}"
    assert [case.truth["answer_type"] for case in cases] == ["yes/no", "other", "number"]
    assert json.loads(cases[0].truth["references"]) == ["red", *["a red knife"] * 9]
    assert cases[0].image is cases[1].image is not None


@pytest.mark.parametrize("subtype", ["test2015", "test-dev2015"])
def test_vqav2_of_a_test_set_has_no_answers(tmp_path: Path, subtype: str) -> None:
    cases = cases_of(vqav2(tmp_path, subtype=subtype))
    assert len(cases) == 3
    assert all("references" not in case.truth and case.image for case in cases)


def test_vqav2_names_what_does_not_fit(tmp_path: Path) -> None:
    tree = vqav2(tmp_path)
    _edit(tree["annotations"], question_id=7, answers=[])
    _edit(tree["questions"], image_id=9)
    with pytest.raises(DataError) as caught:
        cases_of(tree)
    text = str(caught.value)
    assert "record 1000, question_id: has no annotation" in text
    assert "COCO_val2014_000000000009.jpg' is not a file" in text
    _edit(tree["questions"], question_id=1001)
    with pytest.raises(DataError, match="1001 is not a number, or stands twice"):
        cases_of(tree)


def test_vizwiz_tells_what_people_could_not_answer(tmp_path: Path) -> None:
    cases = cases_of(vizwiz(tmp_path))
    assert cases[0].question == (
        "What is this? ok 0\nWhen the provided information is insufficient, respond with 'Unanswerable'."
        + SHORT
    )
    assert [case.truth["answerable"] for case in cases] == ["0", "1", "0"]
    assert cases[1].sample_id == "vizwiz/VizWiz_val_00000001.jpg"
    test = cases_of(vizwiz(tmp_path, split="test"))
    assert [set(case.truth) for case in test] == [{"scoring", "image_name"}] * 3


def test_vizwiz_names_bad_records(tmp_path: Path) -> None:
    tree = vizwiz(tmp_path)
    _edit(tree["annotations"], answerable=2, answer_type="", question=" ")
    with pytest.raises(DataError) as caught:
        cases_of(tree)
    text = str(caught.value)
    assert "answerable: 2 is not allowed; allowed: 0, 1" in text
    assert "answer_type: '' is not text" in text
    assert "question: ' ' is not text" in text
