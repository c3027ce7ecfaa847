"""The store: leases, runs, samples and evaluations in one database, SQLite or PostgreSQL.

Begin with `schema.py`, the tables, and `database.py`, the store as one object. `execution.py` does the work of a run
once.
"""

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
