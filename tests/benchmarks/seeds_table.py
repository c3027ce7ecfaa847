"""The demo's table on several seeds, each row trained and measured in one process, without Ray.

    python -m tests.benchmarks.seeds_table configs/reproduce/miniature.yaml --seeds 10 11 12 13 14 --folder runs/recipes

The rows are those of the chain's file at its recipes; the searches that it names are left out. What has been trained and
measured already is taken from the folder. Prints Markdown: the rates, then the mirage gaps, each as median and range.
"""

import argparse
import warnings
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from statistics import median

import torch

from ray_jobs.worker.miniature import base_config, world_path
from safemirage.config.evaluate import EvaluateConfig
from safemirage.config.generators import TransformersConfig
from safemirage.config.loading.load import build_config, load_config, to_tree
from safemirage.config.reproduce import ModelEntry, ReproduceConfig
from safemirage.config.train import TrainConfig
from safemirage.evaluation.metrics.gap import ConditionGap, condition_gaps
from safemirage.evaluation.reports.grid import Grid, to_markdown
from safemirage.evaluation.run.archive import load_evaluation
from safemirage.miniature.table import miniature_grid
from safemirage.settings import Settings
from safemirage.store.database import open_store
from safemirage.store.records import Row
from tests.benchmarks.recipe_search import PROCESSES, THREADS, evaluated, trained


@dataclass(frozen=True, kw_only=True)
class Work:
    """A row of the table on one seed."""

    chain: ReproduceConfig
    file: Path
    root: Path
    entry: ModelEntry
    seed: int

    def base(self) -> None:
        torch.set_num_threads(THREADS)
        trained(base_config(self.seed), Settings.at(self.root))

    def run(self) -> tuple[list[Row], list[ConditionGap]]:
        torch.set_num_threads(THREADS)
        settings, entry = Settings.at(self.root), self.entry
        overrides = [*entry.overrides, f"seed={self.seed}"]
        config = load_config(TrainConfig, self.file.parent / entry.train, overrides)
        model = TransformersConfig(path=str(trained(config, settings)))
        suite = world_path(
            "suite", "miniature:suites/test", seed=self.seed, storage=settings.storage
        )
        tree = {
            "name": f"{entry.name}-seed-{self.seed}",
            "model": to_tree(model),
            "suite": suite,
            "judges": [{"name": name} for name in self.chain.judges],
            "decoding": to_tree(self.chain.decoding),
        }
        ended = evaluated(build_config(EvaluateConfig, tree), settings)
        with open_store(settings.store_url) as store:
            found = replace(load_evaluation(store, ended), name=entry.name)
        rows = [replace(row, model=entry.name) for row in found.rows]
        print(f"seed {self.seed}: {entry.name}", flush=True)
        return rows, condition_gaps([found])


def gaps_grid(gaps: Sequence[ConditionGap]) -> Grid:
    """A line a model and condition: what the attack opens, what as many paraphrases open, and the difference."""
    lines = []
    for model, condition in dict.fromkeys((one.model, one.condition) for one in gaps):
        found = [one.gap for one in gaps if (one.model, one.condition) == (model, condition)]
        there = [gap for gap in found if gap is not None]
        lines.append(
            [
                model,
                condition,
                str(there[0].attempts),
                _range([gap.attacked for gap in there]),
                _range([gap.control for gap in there]),
                _range([gap.change.difference for gap in there]),
                _range([gap.change.p_value for gap in there], scale=1),
            ]
        )
    return Grid(
        title="Mirage gaps",
        header=["model", "condition", "K", "attacked", "neutral", "gap", "p of one seed"],
        lines=lines,
        notes=[],
    )


def _range(values: Sequence[float], scale: float = 100) -> str:
    low, middle, high = (
        f"{scale * value:.3g}" for value in (min(values), median(values), max(values))
    )
    return middle if low == high else f"{middle} ({low} to {high})"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("chain", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", required=True)
    parser.add_argument("--folder", type=Path, required=True)
    values = parser.parse_args()
    warnings.simplefilter("ignore")
    chain = load_config(ReproduceConfig, values.chain)
    root = values.folder.absolute()
    works = [
        Work(chain=chain, file=values.chain.absolute(), root=root, entry=entry, seed=seed)
        for seed in values.seeds
        for entry in chain.models
    ]
    with ProcessPoolExecutor(PROCESSES, mp_context=get_context("spawn")) as pool:
        # All rows of a seed start from its base: two processes are not to train it twice.
        first = list({work.seed: work for work in works}.values())
        list(pool.map(Work.base, first))
        results = list(pool.map(Work.run, works))
    rows: dict[str, list[Row]] = {str(seed): [] for seed in values.seeds}
    for work, (found, _) in zip(works, results, strict=True):
        rows[str(work.seed)] += found
    print(to_markdown(miniature_grid("Rates", rows)))
    print(to_markdown(gaps_grid([gap for _, gaps in results for gap in gaps])))


if __name__ == "__main__":
    main()
