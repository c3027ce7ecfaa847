"""The first tables."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    _create_leases()
    _create_runs()
    for name in ("generations", "verdicts"):
        op.create_table(
            name,
            sa.Column("key", sa.String(64), primary_key=True),
            sa.Column("payload", sa.JSON, nullable=False),
            _moment("created_at"),
        )
    op.create_table(
        "images",
        sa.Column("digest", sa.String(64), primary_key=True),
        sa.Column("data", sa.LargeBinary, nullable=False),
    )
    _create_evaluations()


def _create_leases() -> None:
    op.create_table(
        "leases",
        sa.Column("name", sa.String(256), primary_key=True),
        sa.Column("owner", sa.String(256), nullable=False),
        sa.Column("heartbeat_s", sa.Double, nullable=False),
        sa.Column("ttl_s", sa.Double, nullable=False),
    )


def _create_runs() -> None:
    op.create_table(
        "runs",
        sa.Column("id", sa.String(256), primary_key=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("kind", sa.String(32), nullable=False, index=True),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("config", sa.JSON, nullable=False),
        sa.Column("result", sa.JSON),
        sa.Column("error", sa.Text),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("parent_id", sa.String(256), index=True),
        sa.Column("progress", sa.JSON, nullable=False),
        _moment("created_at"),
        _moment("updated_at"),
    )


def _create_evaluations() -> None:
    op.create_table(
        "evaluations",
        sa.Column("id", sa.String(256), primary_key=True),
        sa.Column("spec", sa.JSON, nullable=False),
        sa.Column("state", sa.String(16), nullable=False, index=True),
        sa.Column("done", sa.Integer, nullable=False),
        sa.Column("total", sa.Integer, nullable=False),
        sa.Column("rows", sa.JSON),
        sa.Column("error", sa.Text),
        sa.Column("idempotency_key", sa.String(256), unique=True),
        _moment("created_at"),
        _moment("updated_at"),
    )
    op.create_table(
        "evaluation_samples",
        sa.Column("evaluation_id", sa.String(256), primary_key=True),
        sa.Column("position", sa.Integer, primary_key=True),
        sa.Column("payload", sa.JSON, nullable=False),
    )


def _moment(name: str) -> "sa.Column[object]":
    return sa.Column(name, sa.DateTime(timezone=True), nullable=False)
