import json
from pathlib import Path

import pytest

from safemirage.config.data import NAMED_ANSWERS
from safemirage.data.llava import LlavaRecord, read_llava, to_llava
from safemirage.data.preferred import IDK, NAMED, REFUSALS, draw_preferred, read_preferred
from safemirage.data.records import DataError
from safemirage.text.refusal_keywords import is_refusal

FORGET = [
    LlavaRecord(f"f{index}", (), ((f"question {index}", "an answer"), ("and then", "another")))
    for index in range(40)
]


def answers(records: list[LlavaRecord]) -> list[str]:
    return [answer for record in records for _, answer in record.turns]


def test_draw_preferred_keeps_all_but_the_answers() -> None:
    drawn = draw_preferred(FORGET, "refusals", seed=0)
    for record, other in zip(drawn, FORGET, strict=True):
        assert (record.id, record.images) == (other.id, other.images)
        assert [q for q, _ in record.turns] == [q for q, _ in other.turns]
    assert set(answers(drawn)) <= set(REFUSALS)
    assert len(set(answers(drawn))) > 1


def test_draw_preferred_depends_on_its_seed_alone() -> None:
    first = draw_preferred(FORGET, "idk", seed=1)
    assert first == draw_preferred(FORGET, "idk", seed=1)
    assert first != draw_preferred(FORGET, "idk", seed=2)


def test_draw_preferred_takes_texts_of_ones_own() -> None:
    assert set(answers(draw_preferred(FORGET, ["no"], seed=0))) == {"no"}


def test_named_answers_are_distinct_and_refusals_refuse() -> None:
    assert tuple(NAMED) == NAMED_ANSWERS
    assert len(set(REFUSALS + IDK)) == len(REFUSALS) + len(IDK)
    assert all(map(is_refusal, REFUSALS))
    assert not any(map(is_refusal, IDK))


def write(path: Path, rows: list[tuple[str, str]]) -> Path:
    path.write_text(json.dumps([to_llava(i, None, [(question, "no")]) for i, question in rows]))
    return path


def test_read_preferred_stands_row_by_row_beside_the_forget_set(tmp_path: Path) -> None:
    forget = read_llava(write(tmp_path / "forget.json", [("a", "one"), ("b", "two")]))
    path = write(tmp_path / "preferred.json", [("a", "one"), ("b", "two")])
    assert answers(read_preferred(path, None, forget=forget)) == ["no", "no"]


def test_read_preferred_names_every_row_that_is_out_of_place(tmp_path: Path) -> None:
    forget = read_llava(write(tmp_path / "forget.json", [("a", "one"), ("b", "two")]))
    path = write(tmp_path / "preferred.json", [("a", "other"), ("c", "two")])
    with pytest.raises(DataError) as error:
        read_preferred(path, None, forget=forget)
    assert [(p.record, p.field) for p in error.value.problems] == [("a", "questions"), ("c", "id")]


def test_read_preferred_of_another_length_is_refused(tmp_path: Path) -> None:
    forget = read_llava(write(tmp_path / "forget.json", [("a", "one"), ("b", "two")]))
    path = write(tmp_path / "preferred.json", [("a", "one")])
    with pytest.raises(DataError, match="1 records, but the forget set has 2"):
        read_preferred(path, None, forget=forget)
