"""Lines of JSON whose writer may be killed at any byte."""

from pathlib import Path

import pytest

from ray_jobs.worker.journal import append_line, read_lines

LINES = [{"step": 1, "says": "é"}, {"step": 2}, {"step": 3}]


def written(file: Path, trees: list[dict[str, object]]) -> bytes:
    for tree in trees:
        append_line(file, tree)
    return file.read_bytes()


def test_lines_are_read_as_they_were_written(tmp_path: Path) -> None:
    assert read_lines(written(tmp_path / "f", LINES)) == LINES
    assert read_lines(b"") == []


@pytest.mark.parametrize("cut", range(1, 12))
def test_line_that_was_cut_off_costs_itself_alone(cut: int, tmp_path: Path) -> None:
    file = tmp_path / "f"
    whole = written(file, LINES[:2])
    file.write_bytes(whole[:-cut])
    found = read_lines(written(file, LINES[2:]))
    assert found[0] == LINES[0]
    assert found[-1] == LINES[2]
    assert len(found) == (3 if cut == 1 else 2)
