"""URLs of databases, and turns at making their tables."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import URL, create_engine, make_url, text
from sqlalchemy.exc import ArgumentError

from safemirage.config.loading.load import ConfigError

POSTGRESQL = "postgresql+psycopg"
_ALLOWED = "allowed: sqlite:////folder/store.db, postgresql://user:password@host/database"
_CREATION_LOCK = 0x5AFE_0001  # any constant: PostgreSQL's advisory lock while tables are made


def sqlite_url(file: Path) -> URL:
    """The URL of a SQLite file whose path may hold any character, `%` and `?` among them."""
    return URL.create("sqlite", database=str(file))


def shown(url: URL) -> str:
    """The URL for people: its password hidden."""
    return url.render_as_string(hide_password=True)


def full(url: URL) -> str:
    """The URL for a library that takes text, its password with it. Not for people, logs or command lines."""
    return url.render_as_string(hide_password=False)


def store_url(url: str | URL) -> URL:
    """A URL that the store works with: an absolute SQLite file, or PostgreSQL by psycopg.

    Raises:
        ConfigError: it is no URL, or of another kind of database; the text of it is not repeated, as it may hold a password.
    """
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise ConfigError(f"store URL: what was given is not a database URL; {_ALLOWED}") from error
    match parsed.drivername:
        case "sqlite" | "sqlite+pysqlite":
            if parsed.database in (None, "", ":memory:"):
                raise ConfigError(
                    f"store URL {shown(parsed)}: a database in memory is seen by one process only; {_ALLOWED}"
                )
            return parsed.set(database=str(Path(str(parsed.database)).expanduser().absolute()))
        case "postgresql" | "postgres" | "postgresql+psycopg":
            return parsed.set(drivername=POSTGRESQL)
        case other:
            raise ConfigError(f"store URL: {other!r} is not supported; {_ALLOWED}")


@contextmanager
def creation_turn(url: str | URL) -> Iterator[None]:
    """Lets one process at a time look for the tables of a database, and make or migrate them.

    The store, MLflow and Optuna each make tables when they first meet an empty database, and a second process that does
    the same just then would fail. A server of another kind looks after itself.
    """
    try:
        parsed = make_url(url)
    except ArgumentError:  # no database: `databricks`
        yield
        return
    match parsed.get_backend_name():
        case "sqlite":
            file = Path(str(parsed.database))
            with file.with_name(file.name + ".lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                yield
        case "postgresql":
            engine = create_engine(parsed.set(drivername=POSTGRESQL))
            try:
                with engine.connect() as connection:  # closing it gives the lock back
                    connection.execute(
                        text("SELECT pg_advisory_lock(:lock)"), {"lock": _CREATION_LOCK}
                    )
                    yield
            finally:
                engine.dispose()
        case _:
            yield
