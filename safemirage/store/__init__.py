"""The store: leases, runs, samples and evaluations in one database, SQLite or PostgreSQL."""

from safemirage.store.database import Store, open_store
from safemirage.store.execution import RunFailed, RunHandle, RunInterrupted, run_once
from safemirage.store.leases import LeaseLost
from safemirage.store.runs import RunRecord

__all__ = [
    "LeaseLost",
    "RunFailed",
    "RunHandle",
    "RunInterrupted",
    "RunRecord",
    "Store",
    "open_store",
    "run_once",
]
