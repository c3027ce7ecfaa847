"""Bringing a database to this safemirage's tables, from nothing or from any earlier revision, by Alembic.

    migrate(connection)      # inside a transaction that others wait for; it all happens or nothing does

The revision is kept in a table of our own name, because MLflow and Optuna keep theirs in Alembic's default one, and one
PostgreSQL database may hold all three.
"""

from pathlib import Path

from sqlalchemy import Connection, column, inspect, select, table

from safemirage.store.schema import SCHEMA_REVISION

VERSION_TABLE = "safemirage_schema"
MIGRATIONS = Path(__file__).parent / "migrations"
_version = table(VERSION_TABLE, column("version_num"))


class UnknownSchema(RuntimeError):
    """The database's tables are of a revision that this safemirage does not know: a newer one made them."""


def is_current(connection: Connection) -> bool:
    """Whether there is nothing to do. Does not import Alembic."""
    return _revision(connection) == SCHEMA_REVISION


def migrate(connection: Connection, folder: Path = MIGRATIONS) -> None:
    """Runs the revisions that the database has not seen. The caller's transaction holds them all, and keeps others out.

    Raises:
        UnknownSchema: a newer safemirage made the tables.
    """
    # Imported here: it takes longer than everything else that opens a database, and most are current.
    from alembic.operations import Operations
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory

    script = ScriptDirectory(str(folder))
    known = {step.revision for step in script.walk_revisions()}
    found = _revision(connection)
    if found is not None and found not in known:
        raise UnknownSchema(
            f"has schema revision {found}, this safemirage knows {', '.join(sorted(known))}; "
            "a newer safemirage made it: update this one, or name another database"
        )
    context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
    steps = script.iterate_revisions("heads", found or "base")
    with Operations.context(context):
        for step in reversed(list(steps)):
            step.module.upgrade()
            context.stamp(script, step.revision)


def _revision(connection: Connection) -> str | None:
    """The database's revision; None for one that the store has no tables in."""
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    return connection.scalar(select(_version.c.version_num))
