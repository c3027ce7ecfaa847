"""Searches a miniature method's recipe on several seeds at once, each run trained in one process, without Ray.

    python -m tests.benchmarks.recipe_search configs/search/miniature_rmu.yaml --folder runs/recipes

It takes the product's own search file, training loop, evaluation, objectives and sampler. What it leaves out is what costs
minutes a trial on two cores: Ray's worker groups, DeepSpeed and the service. Every measurement is a line of
`<search>.jsonl` in the folder; cut off and started again, it measures what is not there yet. A point that is no nearer to
the ideal on the seeds so far than the best one is on all is spared the others: its worst can only grow.
"""

import argparse
import asyncio
import json
import math
import time
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import optuna
import torch

from ray_jobs.tune.outcome import objective_values, worst_objectives
from ray_jobs.tune.study import build_sampler, stored_point, suggest
from ray_jobs.tune.trial import selection_suite
from ray_jobs.worker.miniature import resolve_miniature
from safemirage.config.evaluate import EvaluateConfig
from safemirage.config.generators import TransformersConfig
from safemirage.config.loading.identity import digest_of, identity_tree
from safemirage.config.plan import SearchPlan, load_search
from safemirage.config.search import ObjectiveConfig
from safemirage.config.train import TorchEngineConfig, TrainConfig, WorkersConfig
from safemirage.evaluation.run.process import run_evaluation
from safemirage.settings import Settings
from safemirage.store.database import open_store
from safemirage.store.evaluations import Evaluation
from safemirage.training.job import TrainingCollapsed, TrainingDiverged, TrainJob
from safemirage.training.loop import train

PROCESSES = 2
THREADS = 1

Running = dict[Future[dict[str, Any]], tuple[optuna.Trial, dict[str, Any], int]]


def trained(config: TrainConfig, settings: Settings) -> Path:
    """The export of a config, trained here where it is not there yet; a miniature's base comes first."""
    config = replace(config, engine=TorchEngineConfig(), workers=WorkersConfig())
    config = resolve_miniature(config, settings.storage, lambda base: trained(base, settings))
    identity = digest_of(identity_tree(config))
    export = settings.storage.exports / f"{config.name}-seed-{config.seed}-{identity[:12]}"
    if not export.is_dir():
        job = TrainJob(
            config=config,
            run_id=export.name,
            identity=identity,
            export=export,
            cache=settings.storage.cache,
        )
        train(job, report=lambda report: None)
    return export


def evaluated(config: EvaluateConfig, settings: Settings) -> Evaluation:
    """A finished evaluation, made in this process where the store does not have it."""
    with open_store(settings.store_url) as store:
        ended = asyncio.run(run_evaluation(config, store=store))
    assert ended.state == "finished", ended.error
    return ended


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A point on one seed."""

    plan: SearchPlan
    root: Path
    config: TrainConfig

    def run(self) -> dict[str, Any]:
        torch.set_num_threads(THREADS)
        settings = Settings.at(self.root)
        started = time.monotonic()
        objectives = self.plan.config.objectives
        try:
            export = trained(self.config, settings)
        except (TrainingDiverged, TrainingCollapsed) as error:
            worst = {item.name: 1.0 - item.ideal for item in objectives}
            return {"objectives": worst, "error": str(error)}
        train_s = time.monotonic() - started
        suite = selection_suite(self.plan, seed=self.config.seed, storage=settings.storage)
        selection = replace(self.plan.config.selection, suite=suite)
        model = TransformersConfig(path=str(export), dtype=selection.dtype)
        rows = evaluated(selection.evaluation(export.name, model), settings).row_trees
        assert rows is not None
        return {
            "objectives": objective_values(rows, objectives),
            "rows": [[row["condition"], row["metric"], row["value"]] for row in rows],
            "train_s": round(train_s, 1),
            "evaluate_s": round(time.monotonic() - started - train_s, 1),
        }


class Results:
    """The measurements so far: one line of the file for each point and seed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lines: list[dict[str, Any]] = []
        if path.exists():
            self._lines = [json.loads(line) for line in path.read_text().splitlines()]

    def add(self, line: dict[str, Any]) -> None:
        self._lines.append(line)
        with self._path.open("a") as stream:
            stream.write(json.dumps(line) + "\n")

    def points(self) -> list[dict[str, Any]]:
        return list({json.dumps(line["point"]): line["point"] for line in self._lines}.values())

    def at_seeds(self, point: dict[str, Any]) -> dict[int, dict[str, float]]:
        """A point's objectives by seed."""
        return {line["seed"]: line["objectives"] for line in self._lines if line["point"] == point}


class Search:
    def __init__(self, plan: SearchPlan, root: Path) -> None:
        self._plan = plan
        self._root = root
        self._results = Results(root / f"{plan.config.name}.jsonl")
        self._best = math.inf
        directions = {"min": "minimize", "max": "maximize"}
        self._study = optuna.create_study(
            directions=[directions[item.direction] for item in plan.config.objectives]
        )
        # What was measured before comes as it came then: the warm start, then what the sampler proposed.
        known = [json.loads(json.dumps(point)) for point in plan.config.warm_start]
        known += [point for point in self._results.points() if point not in known]
        for point in known:
            self._study.enqueue_trial(stored_point(point))

    def run(self) -> None:
        running: Running = {}
        left = self._plan.config.trials
        assert left is not None, "this benchmark counts its points"
        with ProcessPoolExecutor(PROCESSES, mp_context=get_context("spawn")) as pool:
            while True:
                while left and len(running) < PROCESSES:
                    left -= 1
                    self._go_on(pool, running, *self._ask(left))
                if not running:
                    return
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    trial, point, seed = running.pop(future)
                    self._results.add({"point": point, "seed": seed, **future.result()})
                    self._go_on(pool, running, trial, point)

    def _ask(self, left: int) -> tuple[optuna.Trial, dict[str, Any]]:
        config = self._plan.config
        seed = config.seed + (config.trials or 0) - left
        self._study.sampler = build_sampler(self._plan, seed=seed)
        trial = self._study.ask()
        return trial, suggest(trial, self._plan)

    def _can_win(self, found: Mapping[int, Mapping[str, float]]) -> bool:
        if not found:
            return True
        objectives = self._plan.config.objectives
        return distance(worst_objectives(list(found.values()), objectives), objectives) < self._best

    def _go_on(
        self,
        pool: ProcessPoolExecutor,
        running: Running,
        trial: optuna.Trial,
        point: dict[str, Any],
    ) -> None:
        """Measures a point on its next seed, or tells the study what it came to."""
        found, objectives = self._results.at_seeds(point), self._plan.config.objectives
        left = [seed for seed in self._plan.seeds if seed not in found]
        if left and self._can_win(found):
            config = replace(self._plan.trial(point), seed=left[0])
            work = Trial(plan=self._plan, root=self._root, config=config)
            running[pool.submit(work.run)] = (trial, point, left[0])
            return
        worst = worst_objectives(list(found.values()), objectives)
        if not left:
            self._best = min(self._best, distance(worst, objectives))
        self._study.tell(trial, list(worst.values()))
        print(f"{trial.number:2} {worst} on {len(found)} seed(s): {point}", flush=True)


def distance(found: Mapping[str, float], objectives: Sequence[ObjectiveConfig]) -> float:
    """From the ideal, as the knee of a search counts it."""
    return math.dist([found[item.name] for item in objectives], [o.ideal for o in objectives])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("search")
    parser.add_argument("overrides", nargs="*", metavar="a.b=c")
    parser.add_argument("--folder", type=Path, required=True)
    values = parser.parse_args()
    warnings.simplefilter("ignore")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    values.folder.mkdir(parents=True, exist_ok=True)
    Search(load_search(values.search, values.overrides), values.folder.absolute()).run()


if __name__ == "__main__":
    main()
