"""Answers and verdicts by the content that they follow from, and images by their digest.

The first answer wins: what is put is read back, so two processes that answered the same question agree from then on.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Table, select

from safemirage.store.engine import Database
from safemirage.store.schema import generations, images, utc_now, verdicts

_KEYS_PER_QUERY = 500
Payload = dict[str, Any]


class PayloadTable:
    """A table of JSON objects by key (64 hex digits)."""

    def __init__(self, database: Database, table: Table) -> None:
        self._database = database
        self._table = table

    def get(self, keys: Sequence[str]) -> dict[str, Payload]:
        """The payloads of those keys that are there."""
        with self._database.read() as connection:
            return self._get(connection, keys)

    def put(self, payloads: Mapping[str, Payload]) -> dict[str, Payload]:
        """Stores, in one transaction, what is not there yet; returns what is there now for each key."""
        now = utc_now()
        rows = [
            {"key": key, "payload": payload, "created_at": now}
            for key, payload in sorted(payloads.items())  # one order in all processes: no deadlocks
        ]
        with self._database.write() as connection:
            self._database.insert_new(connection, self._table, rows)
            return self._get(connection, list(payloads))

    def _get(self, connection: Connection, keys: Sequence[str]) -> dict[str, Payload]:
        found: dict[str, Payload] = {}
        columns = self._table.c
        wanted = list(dict.fromkeys(keys))
        for start in range(0, len(wanted), _KEYS_PER_QUERY):
            some = wanted[start : start + _KEYS_PER_QUERY]
            statement = select(columns.key, columns.payload).where(columns.key.in_(some))
            found.update({row.key: row.payload for row in connection.execute(statement)})
        return found


class Samples:
    def __init__(self, database: Database) -> None:
        self._database = database
        self.generations = PayloadTable(database, generations)
        self.verdicts = PayloadTable(database, verdicts)

    def put_images(self, data: Mapping[str, bytes]) -> None:
        """Stores encoded images by their SHA-256, for reports and the dashboard."""
        rows = [{"digest": digest, "data": content} for digest, content in sorted(data.items())]
        with self._database.write() as connection:
            self._database.insert_new(connection, images, rows)

    def image(self, digest: str) -> bytes | None:
        with self._database.read() as connection:
            return connection.scalar(select(images.c.data).where(images.c.digest == digest))
