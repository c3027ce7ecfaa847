"""A store on each database that safemirage supports."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from safemirage.store import Store, open_store
from tests.postgres import postgres_server as postgres_server


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of an empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'store.db'}"
    import psycopg

    url = f"{request.getfixturevalue('postgres_server')}/postgres"
    with psycopg.connect(url, autocommit=True) as connection:  # faster than a database a test
        connection.execute("DROP SCHEMA public CASCADE")
        connection.execute("CREATE SCHEMA public")
    return str(url)


@pytest.fixture
def store(store_url: str) -> Iterator[Store]:
    with open_store(store_url) as opened:
        yield opened
