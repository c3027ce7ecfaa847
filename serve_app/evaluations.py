"""The Evaluations deployment: takes up what waits in the store and runs the library's own `evaluate` on it.

The store is the only state. A replica that dies leaves its evaluations under leases that expire, and the next one
resumes from the batches that are stored.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from safemirage.config.serve import EvaluationsConfig
from safemirage.evaluation.generators import Generator
from safemirage.evaluation.generators.asking import ModelCalls
from safemirage.evaluation.run.evaluate import EvaluationSpec, evaluate
from safemirage.evaluation.suites.folder import load_suite, sample_questions
from safemirage.evaluation.types import ImageInput, Sample
from safemirage.storage import Storage
from safemirage.store import LeaseLost, Store
from safemirage.store.evaluations import LEASE_PREFIX, Evaluation
from safemirage.store.records import EvaluationRecord
from serve_app.judges import Judges

_log = logging.getLogger(__name__)
OpenModel = Callable[[str, str], Awaitable[Generator]]
"""Opens a model by its id, for an owner whose fair share it takes."""


class EvaluationRunner:
    """Runs a few evaluations at a time, oldest first. Plain asyncio: the deployment wraps it."""

    def __init__(
        self,
        config: EvaluationsConfig,
        *,
        storage: Storage,
        store: Store,
        open_model: OpenModel,
        judges: Judges,
    ) -> None:
        self._config = config
        self._storage = storage
        self._store = store
        self._open_model = open_model
        self._judges = judges
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._calls = ModelCalls()
        self._samples_done = self._unscored = 0

    def counts(self) -> dict[str, int]:
        """Samples since the start: put to a model, known to the store already, left without a verdict by a judge."""
        asked = self._calls.answers
        known = max(0, self._samples_done - asked)
        return {"asked": asked, "known": known, "unscored": self._unscored}

    async def run(self) -> None:
        """Runs until it is cancelled. An evaluation that goes wrong is recorded as failed and does not end the others."""
        try:
            while True:
                await self._end_cancelled()
                await self._start_waiting()
                await asyncio.sleep(self._config.poll_s)
        finally:
            for task in self._tasks.values():
                task.cancel()
            await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def _end_cancelled(self) -> None:
        """Takes evaluations that were cancelled out of the engines in the middle of a batch, whose answers may take long."""
        for name, task in self._tasks.items():
            found = await asyncio.to_thread(self._store.evaluations.get, name)
            if found is not None and found.state == "cancelled":
                task.cancel()

    async def _start_waiting(self) -> None:
        for name, task in list(self._tasks.items()):
            if task.done():
                del self._tasks[name]
                if not task.cancelled() and (error := task.exception()):
                    _log.error("evaluation %s: %s", name, error, exc_info=error)
        free = self._config.concurrent - len(self._tasks)
        if free <= 0:
            return
        # `running` too: one whose process died is found there until its lease runs out.
        found = await asyncio.to_thread(self._store.evaluations.list, states=("queued", "running"))
        waiting = [
            evaluation
            # The store lists the newest first.
            for evaluation in reversed(found)
            if not evaluation.is_live
            and evaluation.id not in self._tasks
            # Those of jobs and trials are run by whoever recorded them.
            and (record := evaluation.readable) is not None
            and record.source == "service"
        ]
        for evaluation in waiting[:free]:
            self._tasks[evaluation.id] = asyncio.create_task(self._evaluate(evaluation))

    async def _evaluate(self, evaluation: Evaluation) -> None:
        record = evaluation.record
        try:
            samples = await asyncio.to_thread(self._samples, record)
            generator = await self._open_model(record.name, record.owner)
            judges = [await self._judges.open(judge.name, record.owner) for judge in record.judges]
        except (
            ValueError,
            RuntimeError,
        ) as error:  # suite, export, judge, model: recorded, not hidden
            await asyncio.to_thread(self._fail, evaluation.id, f"{type(error).__name__}: {error}")
            return
        spec = EvaluationSpec(
            id=evaluation.id,
            model=record.name,
            decoding=record.decoding,
            protocol=record.protocol,
            batch_size=self._config.batch,
            ttl_s=self._config.takeover_s,
            record=record,
        )
        # Errors from here on are recorded by `evaluate` itself.
        counted = self._calls.counted_answers(generator)
        ended = await evaluate(spec, samples, counted, judges, store=self._store)
        self._samples_done += ended.done
        self._unscored += sum(row.unscored for row in ended.rows or ())

    def _samples(self, record: EvaluationRecord) -> list[Sample]:
        if record.suite is not None:
            samples = load_suite(self._storage.suites / record.suite)
        else:
            samples = [self._sample(tree) for tree in record.samples or ()]
        return sample_questions(samples, record.sample, record.seed)

    def _sample(self, tree: Mapping[str, Any]) -> Sample:
        """The sample of a record, whose image is a digest."""
        image = None
        if tree["image"] is not None:
            data = self._store.samples.image(tree["image"])
            assert data is not None, f"image {tree['image']} is stored before its sample"
            image = ImageInput(data)
        return Sample(**{**tree, "image": image})

    def _fail(self, evaluation_id: str, message: str) -> None:
        lease = self._store.leases.acquire(
            LEASE_PREFIX + evaluation_id, ttl_s=self._config.takeover_s
        )
        if lease is None:
            return
        try:
            with lease:
                self._store.evaluations.start(evaluation_id, lease=lease, total=0)
                self._store.evaluations.fail(evaluation_id, message, lease=lease)
        except LeaseLost:
            _log.warning("evaluation %s: another process took it over", evaluation_id)
