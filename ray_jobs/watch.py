"""Evaluates a run's snapshots, one after another, while the run goes on.

The engine is a Ray actor with resources of its own; suite, judges and store are this process's. What was measured is
appended to `watch.jsonl` in the run's folder, logged under `watch/...` at the snapshot's step, and part of the run's result.
"""

import asyncio
import json
import shutil
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ray_jobs.capacity import CapacityError, concurrent_engines
from ray_jobs.engines import open_engine
from ray_jobs.evaluate import default_placement
from safemirage.config.evaluate import OpenAIConfig
from safemirage.config.load import ConfigError
from safemirage.config.train import WatchConfig
from safemirage.data.records import DataError
from safemirage.evaluation.many import Outcome, judging_models, run_many
from safemirage.evaluation.metrics import METRICS, Row, headline, row_from
from safemirage.evaluation.selection import load_cases
from safemirage.evaluation.suites import SuiteError
from safemirage.store.database import Store
from safemirage.tracking import Tracker

FILE_NAME = "watch.jsonl"
Measured = dict[str, Any]
"""{"step", "rows"} or {"step", "error"}."""


class Watcher:
    """Inside `with`, a thread takes what `put` is given. Leaving waits for all of it; with an error, only for the
    evaluation under way."""

    def __init__(
        self, config: WatchConfig, *, run_id: str, folder: Path, store: Store, tracker: Tracker
    ) -> None:
        self._config = config
        self._run_id = run_id
        self._file = folder / FILE_NAME
        self._store = store
        self._tracker = tracker
        self._resources = _resources(config)
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"watch {run_id}")
        self._pending: list[Future[None]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._pool.shutdown(cancel_futures=error is not None)
        if error is None:
            for future in self._pending:
                future.result()  # raises what the thread met

    def put(self, step: int, model: Path) -> None:
        """The model after `step` steps. One that was measured before, or that is gone, is left alone."""
        done = {entry["step"] for entry in self.measured() if "rows" in entry}
        if step not in done and model.is_dir():
            self._pending.append(self._pool.submit(self._measure, step, model))

    def take(self, snapshot: Path) -> None:
        """A snapshot that the training reports, `step-<number>`; deleted when it was evaluated unless it is to be kept."""
        self.put(int(snapshot.name.removeprefix("step-")), snapshot)

    def measured(self) -> list[Measured]:
        """Of every step the last word, in the order of steps; those of earlier attempts too."""
        if not self._file.is_file():
            return []
        entries = [json.loads(line) for line in self._file.read_text().splitlines()]
        last = {entry["step"]: entry for entry in entries}
        return [last[step] for step in sorted(last)]

    def _measure(self, step: int, model: Path) -> None:
        evaluation = self._config.evaluation
        assert not isinstance(evaluation.model, OpenAIConfig)  # the config checks it
        engine = replace(evaluation.model, path=str(model))
        config = replace(evaluation, name=f"{self._run_id}-step{step}", model=engine)
        outcomes = asyncio.run(
            run_many(
                [config],
                store=self._store,
                open_model=partial(open_engine, resources=self._resources),
                engines=1,
                on_progress_of=lambda _: lambda done, total: None,
            )
        )
        self._keep(step, outcomes[0])
        if model.name.startswith("step-") and not self._config.keep and not outcomes[0].error:
            shutil.rmtree(model)

    def _keep(self, step: int, outcome: Outcome) -> None:
        ended = outcome.evaluation
        if ended is None or ended.rows is None:
            problem = outcome.error or f"evaluation {ended.id if ended else ''} has no rows"
            entry: Measured = {"step": step, "error": problem}
            print(f"{self._run_id}: step {step} was not evaluated: {problem}", flush=True)
        else:
            entry = {"step": step, "rows": ended.rows}
            rows = headline(map(row_from, ended.rows))
            self._tracker.log_steps(self._run_id, [{"step": float(step), **_metrics(rows)}])
            print(f"{self._run_id}: step {step}: {_shown(rows)}", flush=True)
        with self._file.open("a") as stream:
            stream.write(json.dumps(entry) + "\n")


def check_watch(config: WatchConfig, nodes: Sequence[dict[str, float]]) -> None:
    """Refuses, before anything is trained, what no snapshot could be evaluated with.

    Raises:
        ConfigError: the suite cannot be read, or the cluster can never hold the engine.
    """
    evaluation = config.evaluation
    try:
        load_cases(evaluation)
        judges = [
            m for m in judging_models([evaluation]).values() if not isinstance(m, OpenAIConfig)
        ]
        concurrent_engines(nodes, _resources(config), judges=len(judges))
    except (SuiteError, DataError) as error:
        raise ConfigError(f"watch.evaluation: {error}") from error
    except CapacityError as error:
        raise ConfigError(f"watch.cpus, watch.gpus: {error}") from error


def _resources(config: WatchConfig) -> dict[str, float]:
    return default_placement(config.evaluation.model, config.cpus, config.gpus).resources


def _metrics(rows: Sequence[Row]) -> dict[str, float]:
    return {f"watch/{row.case}/{row.metric}": row.value for row in rows if row.value is not None}


def _shown(rows: Sequence[Row]) -> str:
    return ", ".join(
        f"{row.case} {row.metric} {row.value:.1%} (n={row.n})"
        for row in rows
        if row.metric in METRICS and row.value is not None
    )
