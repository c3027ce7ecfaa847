"""Files and folders that are whole or not there, also where writing ends half way or somebody else was faster."""

from pathlib import Path

import pytest

from safemirage.files import whole_file, whole_folder, write_bytes, write_text


def _write_half(path: Path) -> None:
    with whole_file(path) as draft:
        assert draft.suffix == path.suffix
        draft.write_bytes(b"half")
        raise ZeroDivisionError


def test_file_takes_its_name_whole_and_a_writer_that_fails_leaves_the_old_one(
    tmp_path: Path,
) -> None:
    path = tmp_path / "new" / "table.json"
    write_text(path, "über")
    assert path.read_text(encoding="utf-8") == "über"
    with pytest.raises(ZeroDivisionError):
        _write_half(path)
    assert path.read_text(encoding="utf-8") == "über"
    write_bytes(path, b"second")
    assert path.read_bytes() == b"second"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(("replace", "expected"), [(False, "theirs"), (True, "ours")])
def test_folder_that_another_process_made_meanwhile_is_kept_or_replaced(
    tmp_path: Path, replace: bool, expected: str
) -> None:
    folder = tmp_path / "new" / "world"
    with whole_folder(folder, replace=replace) as draft:
        (draft / "who").write_text("ours")
        folder.mkdir()
        (folder / "who").write_text("theirs")
    assert (folder / "who").read_text() == expected
    assert list(folder.parent.iterdir()) == [folder]


def test_folder_whose_writer_fails_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), whole_folder(tmp_path / "world"):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []
