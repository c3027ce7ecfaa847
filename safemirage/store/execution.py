"""Doing the work of a run once, whoever asks for it and however often.

    record = run_once(store, run_id="npo-12ab", name="npo", kind="train", config=tree, work=train)

A finished run is returned, a live one is followed until it ends, a failed or abandoned one is done again: `work`
must itself be able to resume from what an earlier attempt left.
"""

import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from safemirage.store.database import Store
from safemirage.store.leases import DEFAULT_TTL_S, Lease, LeaseLost
from safemirage.store.runs import LEASE_PREFIX, RunRecord, Runs
from safemirage.store.schema import storable

_POLL_S = 0.5
"""How often a process that follows another's run looks whether it has ended."""


class RunFailed(RuntimeError):
    """A run that another process did, and that failed there. Asking for it again resumes it."""

    def __init__(self, record: RunRecord) -> None:
        super().__init__(f"run {record.id} failed in another process: {record.error}")
        self.record = record


class RunInterrupted(RuntimeError):
    """Work that was ended early and is not at fault. Its run is queued again, and whoever asks for it next resumes it."""


class RunHandle:
    """What `work` is given: its run's id and attempt, and a way to say how far it is."""

    def __init__(self, run_id: str, *, attempt: int, runs: Runs, lease: Lease) -> None:
        self.id = run_id
        self.attempt = attempt
        self._runs = runs
        self._lease = lease

    @property
    def lost(self) -> bool:
        """Whether another process may have taken the run over; work should end."""
        return self._lease.lost

    def check(self) -> None:
        """Raises LeaseLost when another process may have taken the run over."""
        self._lease.check()

    def progress(self, values: Mapping[str, Any]) -> None:
        """Replaces the run's progress. A write to the database: about once a second is plenty."""
        self._lease.check()
        self._runs.update(self.id, lease=self._lease, progress=dict(values))


def run_once(  # noqa: PLR0913 - a run is told apart by all of these
    store: Store,
    *,
    run_id: str,
    name: str,
    kind: str,
    config: Mapping[str, Any],
    work: Callable[[RunHandle], Mapping[str, Any]],
    parent_id: str | None = None,
    on_wait: Callable[[RunRecord], None] | None = None,
    ttl_s: float = DEFAULT_TTL_S,
) -> RunRecord:
    """The finished run: done by this call, or by another process.

    `work` returns the run's result, a plain tree for JSON. `on_wait` is called with the record, about twice a
    second, while another process has the run.

    Raises:
        RunFailed: the run was followed, and failed in the process that had it.
        LeaseLost: this process stalled for longer than `ttl_s` and another took the run over.
        BaseException: what `work` raised; it is written to the record first.
    """
    store.runs.register(run_id, name=name, kind=kind, config=config, parent_id=parent_id)
    followed = False
    while True:
        # The lease first, then the record: what is read under the lease nobody else changes.
        lease = store.leases.acquire(LEASE_PREFIX + run_id, ttl_s=ttl_s)
        record = store.runs.get(run_id)
        assert record is not None, f"run {run_id} was registered above"
        if lease is not None:
            with lease:
                if record.state == "finished":
                    return record
                # It failed while this process waited: trying again unasked would repeat a fault for every follower.
                if record.state == "failed" and followed:
                    raise RunFailed(record)
                return _attempt(store.runs, record, work, lease)
        if record.state == "finished":
            return record
        followed = True
        if on_wait is not None:
            on_wait(record)
        time.sleep(_POLL_S)


def _attempt(
    all_runs: Runs,
    record: RunRecord,
    work: Callable[[RunHandle], Mapping[str, Any]],
    lease: Lease,
) -> RunRecord:
    # Written before the work begins, so that an attempt that dies without a word counts too.
    attempt = record.attempts + 1
    all_runs.update(record.id, lease=lease, state="running", attempts=attempt, error=None)
    handle = RunHandle(record.id, attempt=attempt, runs=all_runs, lease=lease)
    with _recorded(all_runs, record.id, lease):
        result = dict(work(handle))
        all_runs.update(record.id, lease=lease, state="finished", result=result)
    finished = all_runs.get(record.id)
    assert finished is not None, f"run {record.id} was written above"
    return finished


@contextmanager
def _recorded(all_runs: Runs, run_id: str, lease: Lease) -> Iterator[None]:
    """Writes an exception that passes through into the run's record."""
    try:
        yield
    except LeaseLost:
        raise
    except BaseException as error:
        # An interrupted run is not at fault: whoever follows it takes it over.
        interrupted = isinstance(error, RunInterrupted) or not isinstance(error, Exception)
        state = "queued" if interrupted else "failed"
        # With the traceback: whoever reads it later, maybe on another machine, has no other log.
        lines = "".join(traceback.format_exception(error))
        summary = "".join(traceback.format_exception_only(error)).strip()
        said = storable(f"{summary}\n\n{lines}")
        all_runs.update(run_id, lease=lease, state=state, error=said)
        raise
