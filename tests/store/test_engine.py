"""Opening the store: by many at once, by a wrong URL."""

import subprocess
import sys
from pathlib import Path

import pytest

from safemirage.config import ConfigError
from safemirage.store import open_store

OPEN = "import sys; from safemirage.store import open_store; open_store(sys.argv[1]).close()"


@pytest.mark.processes
def test_store_opened_by_several_processes_at_once_has_its_tables(store_url: str) -> None:
    processes = [subprocess.Popen([sys.executable, "-c", OPEN, store_url]) for _ in range(6)]
    assert [process.wait(timeout=50) for process in processes] == [0] * 6
    with open_store(store_url) as store:
        assert store.runs.list() == []


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("sqlite://", "in memory"),
        ("mysql://host/db", "'mysql' is not supported"),
        ("store.db", "is not a database URL"),
        ("postgresql//nobody:secret@host/db", "is not a database URL"),
        ("postgresql://nobody:secret@127.0.0.1:9/db", "cannot be opened"),
    ],
)
def test_store_url_that_cannot_work_is_named(url: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        open_store(url)
    assert "secret" not in str(caught.value)


def test_store_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be created"):
        open_store(f"sqlite:///{tmp_path / 'file' / 'store.db'}")


def test_store_that_is_no_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no database at all, but longer than its header would be" * 9)
    with pytest.raises(ConfigError, match="cannot be opened: file is not a database"):
        open_store(f"sqlite:///{tmp_path / 'file'}")


def test_store_waits_for_another_writer_instead_of_failing(store_url: str) -> None:
    first, second = open_store(store_url), open_store(store_url)
    for index in range(50):
        (first if index % 2 else second).runs.register(
            str(index), name="a", kind="train", config={}
        )
        assert len((second if index % 2 else first).runs.list()) == index + 1
    first.close()
    second.close()
