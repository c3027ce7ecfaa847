"""One training run on a Ray cluster.

    safemirage train CONFIG.yaml [a.b=c ...]
    ray job submit --working-dir . -- python -m ray_jobs.train CONFIG.yaml [a.b=c ...]        the same as a job

A finished run is returned, a live one is followed, a failed or interrupted one resumes from its last checkpoint.
"""

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray_jobs.cluster.capacity import GPU_MEMORY, gpu_memory
from ray_jobs.cluster.environment import connect
from ray_jobs.cluster.failures import Failure, KnownFailure, failure_of, is_busy
from ray_jobs.cluster.preflight import check_weights, local_node, preflight
from ray_jobs.worker.progress import Follower, waiting
from safemirage.config.loading.identity import run_identity
from safemirage.config.loading.load import ConfigError, to_tree
from safemirage.config.train import TrainConfig
from safemirage.config.world import is_miniature
from safemirage.models.families import UnknownFamilyError
from safemirage.models.manifest import ExportError
from safemirage.models.presence import PreflightError
from safemirage.runs import TrainResult, read_record
from safemirage.settings import Settings, load_located, read_settings
from safemirage.store.database import Store, open_store
from safemirage.store.execution import RunHandle, run_once
from safemirage.store.runs import RunRecord
from safemirage.tracking import Tracker, open_tracker
from safemirage.training.job import TrainJob

if TYPE_CHECKING:
    from ray.train import UserCallback
    from ray.train.torch import TorchTrainer

_REPORT_EVERY_S = 1.0
"""A report waits for the controller, which looks every half second; so steps are gathered."""


class TrainingFailed(KnownFailure):
    """A run that came to no export, and whose fault it was."""


def run_training(
    config: TrainConfig,
    *,
    settings: Settings,
    parent_run: str | None = None,
    title: str | None = None,
    callbacks: Sequence["UserCallback"] = (),
) -> RunRecord:
    """The finished run of a config; its result is a TrainResult.

    Args:
        parent_run: id of the run that asks for it (a trial).
        title: what MLflow calls the run; the config's name by default, which all trials of a search share.
        callbacks: of Ray Train, run in its controller.

    Raises:
        PreflightError: lists everything that is missing.
        TrainingFailed: it cannot succeed as it is configured, or the machine took its workers away too often.
    """
    connect(settings)
    config = settings.located(config)
    _require(config, is_trial=parent_run is not None)
    config = _resolved(config, settings)
    if config.watch is not None:
        from ray_jobs.cluster.nodes import possible_resources
        from ray_jobs.watch import check_watch

        # Before anything is trained: a snapshot that cannot be evaluated would show after hours.
        check_watch(config.watch, possible_resources())
    # The config with its inputs by content, so the same work has the same id wherever its files lie.
    identity = run_identity(config)
    run_id = f"{config.name}-{identity[:12]}"
    with open_store(settings.store_url) as store:
        training = _Training(
            config,
            run_id=run_id,
            identity=identity,
            settings=settings,
            store=store,
            parent=_root(store, parent_run),
        )
        record = run_once(
            store,
            run_id=run_id,
            name=config.name,
            kind="train",
            config=to_tree(config),
            work=partial(training.run, title=title or config.name, callbacks=callbacks),
            parent_id=parent_run,
            on_wait=waiting(run_id),
        )
    # Only now: a driver that died before the record was finished would find nothing to resume from.
    shutil.rmtree(settings.storage.runs / run_id / "checkpoints", ignore_errors=True)
    return record


class _Training:
    """One run: from its config to a finished export."""

    def __init__(
        self,
        config: TrainConfig,
        *,
        run_id: str,
        identity: str,
        settings: Settings,
        store: Store,
        parent: str | None,
    ) -> None:
        self._config = config
        self._run_id = run_id
        self._identity = identity
        self._settings = settings
        self._storage = settings.storage
        self._store = store
        self._parent = parent

    def run(
        self, handle: RunHandle, *, title: str, callbacks: Sequence["UserCallback"]
    ) -> dict[str, Any]:
        config = self._config
        tracker = open_tracker(self._settings, config.tracking.experiment)
        # Before the workers start, so that a run that never begins can be seen to have failed.
        tracker.start(self._run_id, name=title, config=to_tree(config), parent_id=self._parent)
        finished = False
        try:
            result = self._followed(handle, tracker, callbacks)
            # A run that another process took over must not be declared finished by this one.
            handle.check()
            tracker.set_tags(self._run_id, {"export": result.export})
            finished = True
        finally:
            tracker.finish(self._run_id, failed=not finished)
        return to_tree(result)

    def _followed(
        self, handle: RunHandle, tracker: Tracker, callbacks: Sequence["UserCallback"]
    ) -> TrainResult:
        watch = self._config.watch
        if watch is None:
            with Follower(handle, self._reports(), tracker):
                return self._fit(callbacks)
        from ray_jobs.watch import Watcher

        folder = self._reports().parent
        with Watcher(
            watch,
            run_id=self._run_id,
            folder=folder,
            store=self._store,
            tracker=tracker,
            secrets=self._settings.secrets,
        ) as watcher:
            with Follower(handle, self._reports(), tracker, on_snapshot=watcher.take):
                result = self._fit(callbacks)
            # The finished model is evaluated like a snapshot, and is never deleted.
            watcher.put(result.steps, Path(result.export))
        return replace(result, watch=watcher.measured())

    def _fit(self, callbacks: Sequence["UserCallback"]) -> TrainResult:
        """Trains until there is a result. What others hold is waited for; what the machine takes away is started again
        from the last checkpoint, `workers.max_failures` times."""
        from ray_jobs.cluster.capacity import worker_resources
        from ray_jobs.cluster.nodes import say_if_busy

        workers = self._config.workers
        lost = 0
        while True:
            say_if_busy(self._run_id, worker_resources(workers), count=workers.count)
            try:
                # A new trainer for each start: Ray's own restart would not tell a lost machine from a run that diverged.
                outcome: dict[str, Any] = self._trainer(callbacks).fit().return_value
            except Exception as error:
                # Others hold the resources: this is waiting, and counts as no failure.
                if is_busy(error):
                    continue
                failure = failure_of(error)
                if failure.cause != "machine" or lost == workers.max_failures:
                    raise TrainingFailed(failure, of=self._run_id) from error
                lost += 1
                print(
                    f"{self._run_id}: resumes from its last checkpoint, restart {lost} of {workers.max_failures}: "
                    f"{failure.reason}",
                    file=sys.stderr,
                    flush=True,
                )
            else:
                if "failure" in outcome:
                    raise TrainingFailed(Failure(**outcome["failure"]), of=self._run_id)
                return read_record(TrainResult, outcome["summary"], of=self._run_id)

    def _trainer(self, callbacks: Sequence["UserCallback"]) -> "TorchTrainer":
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchConfig, TorchTrainer

        from ray_jobs.cluster.capacity import worker_resources
        from ray_jobs.worker.training import work, worker_runtime_env

        workers = self._config.workers
        return TorchTrainer(
            work,
            train_loop_config={
                "job": self._job(),
                "reports": str(self._reports()),
                "secrets": self._settings.secrets,
            },
            torch_config=TorchConfig(backend="nccl" if workers.gpu else "gloo"),
            scaling_config=ScalingConfig(
                num_workers=workers.count,
                use_gpu=workers.gpu,
                resources_per_worker=worker_resources(workers),
            ),
            run_config=RunConfig(
                name=self._run_id,
                storage_path=str(self._storage.runs),
                # Which failures are tried again is settled in `_fit`: Ray would restart a run out of memory, too.
                failure_config=FailureConfig(max_failures=0, controller_failure_limit=0),
                callbacks=[*callbacks],
                worker_runtime_env=worker_runtime_env(self._config, self._settings),
            ),
        )

    def _job(self) -> TrainJob:
        return TrainJob(
            config=self._config,
            run_id=self._run_id,
            identity=self._identity,
            export=self._storage.exports / self._run_id,
            cache=self._storage.cache,
            checkpoints=self._folder / "checkpoints",
            snapshots=self._folder / "snapshots",
            report_every_s=_REPORT_EVERY_S,
        )

    @property
    def _folder(self) -> Path:
        return self._storage.runs / self._run_id

    def _reports(self) -> Path:
        self._folder.mkdir(parents=True, exist_ok=True)
        return self._folder / "reports.jsonl"


def _require(config: TrainConfig, *, is_trial: bool) -> None:
    from ray_jobs.cluster.nodes import alive_nodes, possible_resources

    nodes = possible_resources()
    if config.workers.gpu:
        nodes = [*nodes, *map(_gpu_memory, alive_nodes())]
    if problems := preflight(config, nodes=nodes, is_trial=is_trial):
        raise PreflightError("\n".join(problems))


def _gpu_memory(node: Mapping[str, Any]) -> dict[str, float]:
    """The GPU memory of a node, asked on the node itself, which needs no free GPU for it."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    if not node["Resources"].get("GPU"):
        return {}
    there = NodeAffinitySchedulingStrategy(node_id=node["NodeID"], soft=False)
    task = ray.remote(gpu_memory).options(num_cpus=0, scheduling_strategy=there)
    memory: dict[str, float] = ray.get(task.remote())
    return memory


def _resolved(config: TrainConfig, settings: Settings) -> TrainConfig:
    """The config with real paths in place of the miniature's, its watch's suite too."""
    config = with_base(config, settings)
    watch = config.watch
    if watch is None or watch.evaluation.suite is None or not is_miniature(watch.evaluation.suite):
        return config
    from ray_jobs.worker.miniature import world_path

    key, suite = "watch.evaluation.suite", watch.evaluation.suite
    suite = world_path(key, suite, seed=config.seed, storage=settings.storage)
    return replace(config, watch=replace(watch, evaluation=replace(watch.evaluation, suite=suite)))


def with_base(config: TrainConfig, settings: Settings) -> TrainConfig:
    """The config with real paths in place of the miniature's model and data; what is missing is built and trained."""
    if not config.needs_miniature:
        return config
    from ray_jobs.worker.miniature import resolve_miniature  # on use: it needs torch

    return resolve_miniature(config, settings.storage, partial(_train_base, settings=settings))


def _train_base(config: TrainConfig, *, settings: Settings) -> Path:
    run = run_training(config, settings=settings)
    return Path(read_record(TrainResult, run.result, of=run.id).export)


def _root(store: Store, run_id: str | None) -> str | None:
    """The run at the top of a run's parents: MLflow shows the trials of a search below the search."""
    while run_id is not None:
        record = store.runs.get(run_id)
        if record is None or record.parent_id is None:
            return run_id
        run_id = record.parent_id
    return None


def _estimate(config: TrainConfig) -> str:
    """The memory of one worker, whether it fits, and the cheapest setting that does. Nothing is loaded, torch neither."""
    if is_miniature(config.model.path):
        raise ConfigError(
            f"model.path: {config.model.path!r} is built by its run; --estimate needs a model folder or a hub id"
        )
    if problems := check_weights(config.model):
        raise PreflightError("\n".join(problems))
    from safemirage.training.estimate.memory import memory_report
    from safemirage.training.estimate.shape import read_shape

    try:
        shape = read_shape(config)
    except (ExportError, UnknownFamilyError) as error:
        raise ConfigError(f"model.path: {error}") from error
    return "\n".join(memory_report(config, shape, gpu_bytes=gpu_memory().get(GPU_MEMORY)))


def train_file(file: Path | str, overrides: Sequence[str], settings: Settings) -> RunRecord:
    """The finished run of a train file. What is missing on this machine is said before a cluster of its own is started.

    Raises: as `run_training` does.
    """
    config = load_located(TrainConfig, file, overrides, settings)
    if not os.environ.get("RAY_ADDRESS") and (problems := preflight(config, nodes=[local_node()])):
        raise PreflightError("\n".join(problems))
    return run_training(config, settings=settings)


def run_command(file: Path, overrides: Sequence[str], *, estimate: bool = False) -> int:
    """What `safemirage train` does; returns its exit code."""
    settings = read_settings()
    if estimate:
        print(_estimate(load_located(TrainConfig, file, overrides, settings)))
        return 0
    try:
        record = train_file(file, overrides, settings)
    except TrainingFailed as error:
        print(error, file=sys.stderr)
        return 1
    result = read_record(TrainResult, record.result, of=record.id)
    print(f"{record.id}: finished after {result.steps} steps; export: {result.export}")
    return 0


if __name__ == "__main__":
    from safemirage.cli import main

    main(["train", *sys.argv[1:]])
