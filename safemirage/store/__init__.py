"""The store: leases, runs, samples and evaluations in one database, SQLite or PostgreSQL."""

from safemirage.store.database import Store, open_store
from safemirage.store.leases import LeaseLost
from safemirage.store.runs import RunFailed, RunHandle, RunRecord, run_once

__all__ = ["LeaseLost", "RunFailed", "RunHandle", "RunRecord", "Store", "open_store", "run_once"]
