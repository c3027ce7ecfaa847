"""The tables of the store. A change to them comes with a revision in `migrations/versions`, and its number here."""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    Column,
    DateTime,
    Dialect,
    Double,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
)
from sqlalchemy.types import TypeDecorator

SCHEMA_REVISION = "0001"

metadata = MetaData()


class UtcDateTime(TypeDecorator[datetime]):
    """A moment in UTC. SQLite forgets the zone, so it is taken off on the way in and put back on the way out."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: Any | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def utc_now() -> datetime:
    return datetime.now(UTC)


def storable(text: str) -> str:
    """`text` as every database takes it in a text column: PostgreSQL has no NUL and no lone surrogates."""
    return text.replace("\0", "\\x00").encode("utf-8", "backslashreplace").decode("utf-8")


# All that is structured is JSON rather than JSONB: a model may answer with NUL characters, which JSONB refuses.
leases = Table(
    "leases",
    metadata,
    Column("name", String(256), primary_key=True),
    Column("owner", String(256), nullable=False),
    # Seconds since the epoch, by the database's clock.
    Column("heartbeat_s", Double, nullable=False),
    Column("ttl_s", Double, nullable=False),
)

runs = Table(
    "runs",
    metadata,
    Column("id", String(256), primary_key=True),
    Column("name", Text, nullable=False),
    Column("kind", String(32), nullable=False, index=True),
    Column("state", String(16), nullable=False),
    Column("config", JSON, nullable=False),
    Column("result", JSON(none_as_null=True)),
    Column("error", Text),
    Column("attempts", Integer, nullable=False, default=0),
    Column("parent_id", String(256), index=True),
    Column("progress", JSON, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
)

generations, verdicts = (
    Table(
        name,
        metadata,
        Column("key", String(64), primary_key=True),
        Column("payload", JSON, nullable=False),
        Column("created_at", UtcDateTime, nullable=False),
    )
    for name in ("generations", "verdicts")
)

images = Table(
    "images",
    metadata,
    Column("digest", String(64), primary_key=True),
    Column("data", LargeBinary, nullable=False),
)

evaluations = Table(
    "evaluations",
    metadata,
    Column("id", String(256), primary_key=True),
    Column("spec", JSON, nullable=False),
    Column("state", String(16), nullable=False, index=True),
    Column("done", Integer, nullable=False, default=0),
    Column("total", Integer, nullable=False, default=0),
    Column("rows", JSON(none_as_null=True)),
    Column("error", Text),
    Column("idempotency_key", String(256), unique=True),
    Column("created_at", UtcDateTime, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
)

evaluation_samples = Table(
    "evaluation_samples",
    metadata,
    Column("evaluation_id", String(256), primary_key=True),
    Column("position", Integer, primary_key=True),
    Column("payload", JSON, nullable=False),
)
