"""Evaluates a run's snapshots, one after another, while the run trains on.

The engine is a Ray actor with resources of its own; suite, judges and store are this process's. What was measured is
appended to `watch.jsonl` in the run's folder, logged under `watch/...` at the snapshot's step, and part of the run's
result.
"""

import asyncio
import shutil
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

from ray_jobs.cluster.capacity import CapacityError, concurrent_engines, engine_resources
from ray_jobs.worker.engines import open_engine
from ray_jobs.worker.journal import append_line, read_lines
from safemirage.config.generators import FolderModelConfig, OpenAIConfig
from safemirage.config.loading.identity import digest_of
from safemirage.config.loading.load import ConfigError, to_tree
from safemirage.config.train import WatchConfig
from safemirage.data.records import DataError
from safemirage.evaluation.metrics.rates import METRICS, headline
from safemirage.evaluation.run.matrix import Outcome, judging_models, run_many
from safemirage.evaluation.suites.folder import SuiteError
from safemirage.evaluation.suites.sampling import load_samples
from safemirage.runs import Measured, read_record
from safemirage.settings import Secrets
from safemirage.store.database import Store
from safemirage.store.evaluations import Evaluation
from safemirage.store.records import Row
from safemirage.text.numbers import percent
from safemirage.tracking import Tracker

FILE_NAME = "watch.jsonl"
_SNAPSHOT = "step-"


class Watcher:
    """Inside `with`, a thread takes what `put` is given. Leaving waits for all of it; with an error, only for the
    evaluation under way."""

    def __init__(
        self,
        config: WatchConfig,
        *,
        run_id: str,
        folder: Path,
        store: Store,
        tracker: Tracker,
        secrets: Secrets,
    ) -> None:
        self._config = config
        self._run_id = run_id
        self._file = folder / FILE_NAME
        self._store = store
        self._tracker = tracker
        self._secrets = secrets
        self._resources = _resources(config)
        self._settings = digest_of(to_tree(config.evaluation))
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
        """The model after `step` steps. One that is gone is left alone; the snapshot of a step that was measured before is
        only cleared away."""
        if self._is_measured(step):
            self._discard(model)
        elif model.is_dir():
            self._pending.append(self._pool.submit(self._measure, step, model))

    def take(self, snapshot: Path) -> None:
        """A snapshot that the training reports, `step-<number>`; deleted when it was evaluated unless it is to be kept."""
        self.put(int(snapshot.name.removeprefix(_SNAPSHOT)), snapshot)

    def measured(self) -> tuple[Measured, ...]:
        """The rows of every step, or the last error, in the order of steps; those of earlier attempts at the same
        evaluation too."""
        if not self._file.is_file():
            return ()
        found: dict[int, Measured] = {}
        for line in read_lines(self._file.read_bytes()):
            try:
                entry = read_record(Measured, line, of=str(self._file))
            except ConfigError:
                continue  # another version's: the step is measured anew
            known = found.get(entry.step)
            if entry.settings == self._settings and (known is None or known.rows is None):
                found[entry.step] = entry
        return tuple(found[step] for step in sorted(found))

    def _is_measured(self, step: int) -> bool:
        return any(entry.step == step and entry.rows is not None for entry in self.measured())

    def _measure(self, step: int, model: Path) -> None:
        # A restarted training reports a snapshot again, maybe while the first report of it waited here.
        if self._is_measured(step):
            self._discard(model)
        elif model.is_dir():
            try:
                outcome = self._outcome(step, model)
            except Exception as error:
                self._keep(step, None, f"{type(error).__name__}: {error}")
            else:
                self._keep(step, outcome.evaluation, outcome.error)
                if not outcome.error:
                    self._discard(model)

    def _discard(self, model: Path) -> None:
        if model.name.startswith(_SNAPSHOT) and not self._config.keep and model.is_dir():
            shutil.rmtree(model)

    def _outcome(self, step: int, model: Path) -> Outcome:
        evaluation = self._config.evaluation
        assert isinstance(evaluation.model, FolderModelConfig)  # the config checks it
        engine = replace(evaluation.model, path=str(model))
        config = replace(evaluation, name=f"{self._run_id}-step{step}", model=engine)
        outcomes = asyncio.run(
            run_many(
                [config],
                store=self._store,
                open_model=partial(open_engine, resources=self._resources, secrets=self._secrets),
                engines=1,
                on_progress_of=lambda _: lambda done, total: None,
            )
        )
        return outcomes[0]

    def _keep(self, step: int, ended: Evaluation | None, error: str) -> None:
        entry = Measured(
            step=step, settings=self._settings, evaluation=ended.id if ended is not None else None
        )
        if ended is None or ended.rows is None:
            problem = error or f"evaluation {ended.id if ended else ''} has no rows"
            entry = replace(entry, error=problem)
            said = f"was not evaluated: {problem}"
        else:
            entry = replace(entry, rows=tuple(ended.rows))
            rows = headline(entry.rows or ())
            self._tracker.log_steps(self._run_id, [{"step": float(step), **_metrics(rows)}])
            said = _shown(rows)
        print(f"{self._run_id}: step {step}: {said}", file=sys.stderr, flush=True)
        append_line(self._file, to_tree(entry))


def check_watch(config: WatchConfig, nodes: Sequence[dict[str, float]]) -> None:
    """Refuses, before anything is trained, what no snapshot could be evaluated with.

    Raises:
        ConfigError: the suite cannot be read, or the cluster can never hold the engine.
    """
    evaluation = config.evaluation
    try:
        load_samples(evaluation)
        judges = [
            m for m in judging_models([evaluation]).values() if not isinstance(m, OpenAIConfig)
        ]
        concurrent_engines(nodes, _resources(config), judges=len(judges))
    except (SuiteError, DataError) as error:
        raise ConfigError(f"watch.evaluation: {error}") from error
    except CapacityError as error:
        raise ConfigError(f"watch.cpus, watch.gpus: {error}") from error


def _resources(config: WatchConfig) -> Mapping[str, float]:
    return engine_resources(config.evaluation.model, config.cpus, config.gpus)


def _metrics(rows: Sequence[Row]) -> dict[str, float]:
    return {
        f"watch/{row.condition}/{row.metric}": row.value for row in rows if row.value is not None
    }


def _shown(rows: Sequence[Row]) -> str:
    return ", ".join(
        f"{row.condition} {row.metric} {percent(row.value)} (n={row.n})"
        for row in rows
        if row.metric in METRICS and row.value is not None
    )
