"""One trial of a search: train a point, judge its export on the selection suite, report the objectives.

Where the search has several seeds it does so at each, and reports the worst.

Runs in a Tune trial's process, which asks for no CPU: training goes to Ray Train's workers, judging to a Ray task.
Both are looked up by what they are made of, so that a point that was tried before costs nothing.
"""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import ray
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from ray_jobs.cluster.capacity import worker_resources
from ray_jobs.cluster.failures import failure_of
from ray_jobs.cluster.nodes import say_if_busy
from ray_jobs.train import run_training
from ray_jobs.tune.outcome import objective_values, worst_objectives
from ray_jobs.tune.study import failure_result, objective_key, trial_run_id
from safemirage.config.evaluate import EvaluateConfig
from safemirage.config.generators import TransformersConfig
from safemirage.config.loading.load import to_tree
from safemirage.config.plan import SearchPlan, point_overrides
from safemirage.config.search import Point
from safemirage.config.train import TrainConfig
from safemirage.config.world import is_miniature
from safemirage.evaluation.metrics.rates import headline
from safemirage.evaluation.run.process import run_evaluation
from safemirage.runs import SeedResult, TrainResult, TrialConfig, TrialResult, read_record
from safemirage.settings import Settings
from safemirage.storage import Storage
from safemirage.store.database import open_store
from safemirage.store.execution import RunHandle, run_once
from safemirage.store.records import Row
from safemirage.tracking import open_tracker

_PAUSE_S = 5.0


class TrialError(RuntimeError):
    """A trial that came to no objectives."""


@dataclass(frozen=True, kw_only=True)
class TrialSetting:
    """What the trials of a search share."""

    search_id: str
    plan: SearchPlan
    """The plan, with paths that hold in any folder: Tune's processes work in one of their own."""
    settings: Settings


def run_trial(config: Mapping[str, Any], *, setting: TrialSetting) -> dict[str, Any]:
    """The objectives of the point in `config`, by their keys, or why there are none. Called by Tune.

    Raises:
        Exception: the machine is at fault; Tune tries the trial again.
    """
    point = {key: config[key] for key in setting.plan.config.space if key in config}
    try:
        return _objectives(point, setting)
    except Exception as error:
        failure = failure_of(error)
        if failure.cause == "machine":
            time.sleep(_PAUSE_S)  # a database that restarts is back by then
            raise
        return failure_result(failure)


def _objectives(point: Point, setting: TrialSetting) -> dict[str, float]:
    setting.settings.secrets.install()
    with open_store(setting.settings.store_url) as store:
        # The same point may be proposed twice, or again after a restart: it is trained once.
        record = run_once(
            store,
            run_id=trial_run_id(setting.search_id, point),
            name=setting.plan.config.name,
            kind="trial",
            config=to_tree(TrialConfig(overrides=dict(point))),
            work=partial(_work, point=point, setting=setting),
            parent_id=setting.search_id,
        )
    result = read_record(TrialResult, record.result, of=record.id)
    rates = {**result.objectives, **result.constraints}
    return {objective_key(name): value for name, value in rates.items()}


def _work(handle: RunHandle, *, point: Point, setting: TrialSetting) -> dict[str, Any]:
    plan = setting.plan
    at_seeds = tuple(
        _at_seed(handle, train, point=point, setting=setting)
        for train in plan.runs(plan.trial(point))
    )
    # The worst of the seeds, so that a point that works by luck at one of them is not chosen.
    config = plan.config
    result = TrialResult(
        objectives=worst_objectives([one.objectives for one in at_seeds], config.objectives),
        constraints=worst_objectives([one.constraints for one in at_seeds], config.constraints),
        at_seeds=at_seeds,
    )
    tree: dict[str, Any] = to_tree(result)
    return tree


def _at_seed(
    handle: RunHandle, train: TrainConfig, *, point: Point, setting: TrialSetting
) -> SeedResult:
    plan = setting.plan
    handle.progress({"stage": "training"})
    title = " ".join(
        [*point_overrides(point), *([f"seed={train.seed}"] if plan.config.seeds else [])]
    )
    # A run of its own with its own identity, so that a point that another search trained is taken over.
    run = run_training(train, settings=setting.settings, parent_run=handle.id, title=title)
    trained = read_record(TrainResult, run.result, of=run.id)
    handle.progress({"stage": "judging", "train_run_id": run.id})
    name = f"{handle.id}-seed-{train.seed}" if plan.config.seeds else handle.id
    suite = selection_suite(plan, seed=train.seed, storage=setting.settings.storage)
    rows = _judge(plan, trained.export, name=name, suite=suite, setting=setting)
    # The trial in MLflow is its training, which has the search for its parent.
    tracker = open_tracker(setting.settings, plan.base.tracking.experiment)
    found = SeedResult(
        seed=train.seed,
        objectives=objective_values(rows, plan.config.objectives),
        constraints=objective_values(rows, plan.config.constraints),
        train_run_id=run.id,
        export=trained.export,
        rows=tuple(Row(**row) for row in rows),
    )
    # A point that another search has trained is shown here too.
    tracker.nest(run.id, parent_id=setting.search_id, name=title)
    tracker.log_metrics(run.id, _selection_metrics(found))
    return found


def _selection_metrics(found: SeedResult) -> dict[str, float]:
    """The objectives, and every rate that they are made of by condition; where judges share a rate the first one counts."""
    rates = {
        f"selection/{row.condition}/{row.metric}": row.value
        for row in headline(found.rows)
        if row.value is not None
    }
    return {**rates, **{f"selection/{name}": value for name, value in found.objectives.items()}}


def selection_suite(plan: SearchPlan, *, seed: int, storage: Storage) -> str:
    """The folder of the selection suite; each seed has one of its own where it is a miniature's."""
    suite = plan.config.selection.suite
    if is_miniature(suite):
        from ray_jobs.worker.miniature import world_path  # on use: it needs torch

        return world_path("selection.suite", suite, seed=seed, storage=storage)
    return suite


def _judge(
    plan: SearchPlan, export: str, *, name: str, suite: str, setting: TrialSetting
) -> list[dict[str, Any]]:
    workers = plan.base.workers
    selection = replace(plan.config.selection, suite=suite)
    model = TransformersConfig(
        path=export, dtype=selection.dtype, device="cuda" if workers.gpu else "cpu"
    )
    needs = worker_resources(workers)
    say_if_busy(f"{name}: judging", needs, count=1)
    task = ray.remote(measure).options(
        num_cpus=needs["CPU"],
        num_gpus=needs.get("GPU", 0),
        # Outside the trial's own placement group, which holds its driver and nothing else.
        scheduling_strategy=PlacementGroupSchedulingStrategy(placement_group=None),
    )
    rows: list[dict[str, Any]] = ray.get(
        task.remote(selection.evaluation(name, model), setting.settings)
    )
    return rows


def measure(config: EvaluateConfig, settings: Settings) -> list[dict[str, Any]]:
    """The rows of an evaluation, through the shared sample store. A Ray task with the resources of one worker."""
    settings.secrets.install()
    with open_store(settings.store_url) as store:
        ended = asyncio.run(run_evaluation(config, store=store))
    if ended.row_trees is None:
        raise TrialError(f"evaluation {ended.id} was {ended.state}, so the trial has no objectives")
    return ended.row_trees
