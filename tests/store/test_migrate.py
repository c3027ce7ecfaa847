"""Migrations: from nothing, to a further revision, from a newer safemirage's, and one that breaks off."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import inspect, text

from safemirage.config import ConfigError
from safemirage.databases import store_url as parse_url
from safemirage.store import open_store
from safemirage.store.engine import Database, _engine, open_database
from safemirage.store.migrate import MIGRATIONS, VERSION_TABLE, migrate
from safemirage.store.schema import SCHEMA_REVISION, metadata
from tests.store.test_engine import OPEN

NEXT = """
import sqlalchemy as sa
from alembic import op

revision = "next"
down_revision = "{head}"

def upgrade():
    op.add_column("runs", sa.Column("host", sa.Text))
    op.execute("UPDATE runs SET host = 'here'")
    {then}
"""


def _raw(url: str) -> Database:
    """The database, with nothing created in it."""
    return Database(_engine(parse_url(url)))


def _revision(database: Database) -> str | None:
    with database.read() as connection:
        return connection.scalar(text(f"SELECT version_num FROM {VERSION_TABLE}"))


def _with_next(folder: Path, then: str = "") -> Path:
    shutil.copytree(MIGRATIONS, folder)
    code = NEXT.format(head=SCHEMA_REVISION, then=then)
    (folder / "versions" / "v_next.py").write_text(code)
    return folder


def test_migrations_make_just_the_tables_that_the_store_uses(store_url: str) -> None:
    database = open_database(store_url)
    with database.read() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
        assert compare_metadata(context, metadata) == []
    assert _revision(database) == SCHEMA_REVISION
    assert ScriptDirectory(str(MIGRATIONS)).get_heads() == [SCHEMA_REVISION]
    database.engine.dispose()


def test_database_of_a_newer_safemirage_is_refused_and_left_as_it_is(
    store_url: str, tmp_path: Path
) -> None:
    database = open_database(store_url)
    with database.write() as connection:
        migrate(connection, _with_next(tmp_path / "newer"))
    database.engine.dispose()
    with pytest.raises(ConfigError, match="has schema revision next, this safemirage knows 0001"):
        open_store(store_url)
    assert _revision(_raw(store_url)) == "next"


def test_migration_runs_once_and_only_what_is_new(store_url: str, tmp_path: Path) -> None:
    with open_store(store_url) as store:
        store.runs.register("run-1", name="a", kind="train", config={})
    database, newer = _raw(store_url), _with_next(tmp_path / "newer")
    for _ in range(2):
        with database.write() as connection:
            migrate(connection, newer)
    with database.read() as connection:
        assert connection.execute(text("SELECT id, host FROM runs")).all() == [("run-1", "here")]
    database.engine.dispose()


def test_migration_that_breaks_off_leaves_the_database_as_it_was(
    store_url: str, tmp_path: Path
) -> None:
    database = open_database(store_url)
    broken = _with_next(tmp_path / "broken", then="raise RuntimeError('out of disk')")
    with pytest.raises(RuntimeError, match="out of disk"), database.write() as connection:
        migrate(connection, broken)
    assert _revision(database) == SCHEMA_REVISION
    with database.read() as connection:
        assert "host" not in {column["name"] for column in inspect(connection).get_columns("runs")}
    database.engine.dispose()
    open_store(store_url).close()


def test_store_keeps_its_revision_beside_that_of_others(store_url: str) -> None:
    """MLflow and Optuna keep theirs in a table `alembic_version`, maybe of the same database."""
    other = _raw(store_url)
    with other.write() as connection:
        connection.execute(text("CREATE TABLE alembic_version (version_num VARCHAR(32))"))
        connection.execute(text("INSERT INTO alembic_version VALUES ('theirs')"))
    open_store(store_url).close()
    with other.read() as connection:
        assert connection.scalar(text("SELECT version_num FROM alembic_version")) == "theirs"
    other.engine.dispose()


@pytest.mark.processes
def test_open_store_that_is_current_does_not_import_alembic(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'store.db'}"
    open_store(url).close()
    code = f"{OPEN}; assert 'alembic' not in sys.modules"
    subprocess.run([sys.executable, "-c", code, url], check=True, timeout=50)
