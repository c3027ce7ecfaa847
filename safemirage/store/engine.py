"""Opening the database: SQLite in WAL mode or PostgreSQL, tables made and migrated once however many processes open it."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import (
    URL,
    Connection,
    Engine,
    Table,
    create_engine,
    event,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DatabaseError

from safemirage.config.loading.load import ConfigError
from safemirage.databases import creation_turn, shown, store_url
from safemirage.extras import install_hint
from safemirage.store.migrate import UnknownSchema, is_current, migrate

_BUSY_TIMEOUT_S = 30.0
_READ_ONLY = "safemirage_read_only"


class Database:
    """An engine with two kinds of transaction: `read`, and `write`, which takes SQLite's write lock at its start.

    A SQLite transaction that reads first and writes later fails at once when another process wrote in
    between, whatever the busy timeout; one that starts as a writer waits its turn instead.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._reader = engine.execution_options(**{_READ_ONLY: True})

    @property
    def is_sqlite(self) -> bool:
        return self.engine.dialect.name == "sqlite"

    @contextmanager
    def read(self) -> Iterator[Connection]:
        with self._reader.begin() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        with self.engine.begin() as connection:
            yield connection

    def upsert(self, table: Table) -> sqlite.Insert | postgresql.Insert:
        """An INSERT that knows ON CONFLICT, in the database's dialect."""
        return sqlite.insert(table) if self.is_sqlite else postgresql.insert(table)

    def insert_new(
        self, connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]]
    ) -> None:
        """Inserts the rows whose key is not there yet; the first answer wins."""
        if rows:
            connection.execute(self.upsert(table).on_conflict_do_nothing(), list(rows))


def open_database(url: str | URL) -> Database:
    """Connects to `url`, creates its tables or brings them up to date.

    Raises:
        ConfigError: the URL is of an unsupported kind, the database cannot be reached, or a newer safemirage
            made its tables.
    """
    parsed = store_url(url)
    name = shown(parsed)
    try:
        _make_folder(parsed)
        engine = _engine(parsed)
    except ModuleNotFoundError as error:
        raise ConfigError(f"store URL {name}: {install_hint(error.name or 'psycopg')}") from error
    database = Database(engine)
    try:
        _bring_up_to_date(database)
    except DatabaseError as error:
        engine.dispose()
        raise ConfigError(f"store URL {name}: cannot be opened: {error.orig}") from error
    except UnknownSchema as error:
        engine.dispose()
        raise ConfigError(f"store URL {name}: {error}") from error
    return database


def _make_folder(url: URL) -> None:
    if url.get_backend_name() != "sqlite":
        return
    folder = Path(str(url.database)).parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"store URL {shown(url)}: {folder} cannot be created: {error.strerror}"
        ) from error


def _engine(url: URL) -> Engine:
    as_json = {"json_serializer": partial(json.dumps, allow_nan=False)}
    if url.drivername.startswith("postgresql"):
        return create_engine(url, pool_pre_ping=True, **as_json)
    engine = create_engine(url, connect_args={"timeout": _BUSY_TIMEOUT_S}, **as_json)

    @event.listens_for(engine, "connect")
    def connected(dbapi_connection: Any, _record: Any) -> None:
        dbapi_connection.isolation_level = None  # transactions are begun below, not by the driver
        dbapi_connection.execute("PRAGMA synchronous=NORMAL")

    @event.listens_for(engine, "begin")
    def begun(connection: Connection) -> None:
        read_only = connection.get_execution_options().get(_READ_ONLY, False)
        connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")

    return engine


def _bring_up_to_date(database: Database) -> None:
    """Creates or migrates the tables, in one process at a time; a database that is current is only read.

    Raises:
        UnknownSchema: a newer safemirage made the tables.
    """
    # Most processes find a database that is current, and need no turn.
    with database.read() as connection:
        if is_current(connection):
            return
    with creation_turn(database.engine.url):
        if database.is_sqlite:  # the switch to WAL does not wait for the busy timeout
            # Outside a transaction, in which SQLite refuses to change its journal.
            raw = database.engine.raw_connection()
            try:
                raw.cursor().execute("PRAGMA journal_mode=WAL")
            finally:
                raw.close()
        with database.write() as connection:
            migrate(connection)
