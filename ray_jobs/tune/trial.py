"""One trial of a search: train a point, judge its export on the selection suite, report the objectives.

Where the search has several seeds it does so at each, and reports the worst.

Runs in a Tune trial's process, which asks for no CPU: training goes to Ray Train's workers, judging to a Ray task.
Both are looked up by what they are made of, so that a point that was tried before costs nothing.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import ray
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from ray_jobs.cluster.capacity import worker_resources
from ray_jobs.cluster.failures import Failure, failure_of
from ray_jobs.cluster.nodes import say_if_busy
from ray_jobs.train import run_training
from ray_jobs.tune.outcome import objective_values, rates_by_condition, worst_objectives
from ray_jobs.tune.study import failure_result, objective_key, trial_run_id
from safemirage.config.evaluate import EvaluateConfig
from safemirage.config.generators import TransformersConfig
from safemirage.config.loading.load import to_tree
from safemirage.config.plan import SearchPlan, point_overrides
from safemirage.config.search import Point
from safemirage.config.train import TrainConfig
from safemirage.config.world import is_miniature
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
    result = _point_result(point, setting, kind="trial", seeds=setting.plan.seeds)
    rates = {**result.objectives, **result.constraints}
    return {objective_key(name): value for name, value in rates.items()}


def repeat_point(point: Point, setting: TrialSetting) -> TrialResult | Failure:
    """A point of the front at `front_seeds`, or how it failed there. A Ray task beside others.

    Raises:
        Exception: the machine is at fault; Ray tries it again.
    """
    try:
        return _point_result(point, setting, kind="repeat", seeds=setting.plan.config.front_seeds)
    except Exception as error:
        if (failure := failure_of(error)).cause == "machine":
            raise
        return failure


def _point_result(
    point: Point, setting: TrialSetting, *, kind: Literal["trial", "repeat"], seeds: Sequence[int]
) -> TrialResult:
    setting.settings.secrets.install()
    run_id = trial_run_id(setting.search_id, point)
    with open_store(setting.settings.store_url) as store:
        # The same point may be proposed twice, or again after a restart: it is trained once.
        record = run_once(
            store,
            run_id=run_id if kind == "trial" else f"{run_id}-{kind}",
            name=setting.plan.config.name,
            kind=kind,
            config=to_tree(TrialConfig(overrides=dict(point))),
            work=partial(_work, point=point, setting=setting, seeds=seeds),
            parent_id=setting.search_id,
        )
    return read_record(TrialResult, record.result, of=record.id)


def _work(
    handle: RunHandle, *, point: Point, setting: TrialSetting, seeds: Sequence[int]
) -> dict[str, Any]:
    plan = setting.plan
    at_seeds = tuple(
        _at_seed(handle, replace(plan.trial(point), seed=seed), point=point, setting=setting)
        for seed in seeds
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
    several = plan.seeds != (train.seed,)
    title = " ".join([*point_overrides(point), *([f"seed={train.seed}"] if several else [])])
    # A run of its own with its own identity, so that a point that another search trained is taken over.
    run = run_training(train, settings=setting.settings, parent_run=handle.id, title=title)
    trained = read_record(TrainResult, run.result, of=run.id)
    handle.progress({"stage": "judging", "train_run_id": run.id})
    name = f"{handle.id}-seed-{train.seed}" if several else handle.id
    suite = selection_suite(plan, seed=train.seed, storage=setting.settings.storage)
    rows = judge(plan, trained.export, name=name, suite=suite, setting=setting)
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
    rates = {**rates_by_condition(found.rows), **found.objectives, **found.constraints}
    tracker.log_metrics(run.id, {f"selection/{name}": value for name, value in rates.items()})
    return found


def selection_suite(plan: SearchPlan, *, seed: int, storage: Storage) -> str:
    """The folder of the selection suite; each seed has one of its own where it is a miniature's."""
    return real_path("selection.suite", plan.config.selection.suite, seed=seed, storage=storage)


def real_path(key: str, path: str, *, seed: int, storage: Storage) -> str:
    """The path, also where it is a part of a seed's miniature world."""
    if is_miniature(path):
        from ray_jobs.worker.miniature import world_path  # on use: it needs torch

        return world_path(key, path, seed=seed, storage=storage)
    return path


def judge(
    plan: SearchPlan, export: str, *, name: str, suite: str, setting: TrialSetting
) -> list[dict[str, Any]]:
    """The rows of a model on a suite, by the search's judges, measured where the cluster has room for one worker."""
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
