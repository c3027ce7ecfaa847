"""The store as one object: `open_store(url)` and its parts."""

from typing import Self

from sqlalchemy import URL

from safemirage.store.engine import Database, open_database
from safemirage.store.evaluations import Evaluations
from safemirage.store.leases import Leases
from safemirage.store.runs import Runs
from safemirage.store.samples import Samples


class Store:
    """Leases, runs, samples and evaluations over one database. Safe to share between threads."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.leases = Leases(database)
        self.runs = Runs(database)
        self.samples = Samples(database)
        self.evaluations = Evaluations(database)

    def close(self) -> None:
        self._database.engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()


def open_store(url: str | URL) -> Store:
    """Opens the store at a SQLite or PostgreSQL URL, and creates its tables or brings them up to date.

    Raises:
        ConfigError: the URL is not supported, cannot be reached, or a newer version made its tables.
    """
    return Store(open_database(url))
