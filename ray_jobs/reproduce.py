"""The whole chain as one job: a world, its models, a search, evaluation over HTTP, the report.

    safemirage reproduce CONFIG.yaml [a.b=c ...]
    ray job submit --working-dir . -- python -m ray_jobs.reproduce CONFIG.yaml [a.b=c ...]        the same as a job

Each stage is a run with an identity: cut off anywhere and started again, the chain resumes where it was. The report
is written anew after every model, so that the first rows can be looked at while the last ones train. The table of all
models stands at the end.
"""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import ray

from ray_jobs.cluster.environment import address, runtime_env
from ray_jobs.train import TrainingFailed, run_training
from ray_jobs.tune.outcome import SearchFailed
from ray_jobs.tune.search import run_search, show
from ray_jobs.worker.miniature import publish_suite
from safemirage.config.loading.identity import digest_of
from safemirage.config.loading.load import load_config, run_file, to_tree
from safemirage.config.plan import SearchPlan, load_search
from safemirage.config.reproduce import ModelEntry, ReproduceConfig
from safemirage.config.serve import ServeConfig
from safemirage.config.train import TrainConfig
from safemirage.config.world import WorldConfig
from safemirage.evaluation.reports.rates import notices
from safemirage.evaluation.reports.report import (
    HTML,
    Report,
    ReportInput,
    ReportModel,
    write_report,
)
from safemirage.evaluation.reports.terminal import print_grid, screen
from safemirage.evaluation.run.client import EvaluationClient, EvaluationView
from safemirage.miniature.model import build_initial_model
from safemirage.miniature.table import miniature_grid
from safemirage.miniature.world import build_world
from safemirage.runs import EvaluateResult, SearchOutcome, TrainResult, WorldResult, read_record
from safemirage.settings import Settings, read_settings
from safemirage.store.database import Store, open_store
from safemirage.store.execution import RunHandle, RunInterrupted, run_once
from safemirage.store.records import Row
from safemirage.store.runs import RunRecord
from safemirage.text.numbers import percent
from serve_app.app import ServiceError, start_service
from serve_app.http.auth import TOKEN

_ABOUT = (
    "The miniature world is built to show the mechanism: in its safety data the first word of a question tells better "
    "than the picture whether to refuse. A model tuned on it refuses words, looks safe on plain questions, and opens "
    "with another word.",
    "All models share one world and one base. Unlearning starts from the base, and sees the same general data as the "
    "tuned models. The recipes of NPO and RMU were searched with equal budgets on the selection splits of other seeds; "
    "this table is a test split, measured once.",
)


@dataclass(frozen=True, kw_only=True)
class _Step:
    """A row of the table, its files read and checked before anything starts."""

    entry: ModelEntry
    config: TrainConfig
    """The config without the point that a search is yet to choose."""
    overrides: tuple[str, ...]
    search: SearchPlan | None


class Chain:
    def __init__(
        self, config: ReproduceConfig, folder: Path, *, settings: Settings, store: Store
    ) -> None:
        self._config = config
        self._folder = folder
        self._settings = settings
        self._storage = settings.storage
        self._store = store
        self._steps = [self._step(entry) for entry in config.models]
        self._suite = ""
        self._searches: dict[str, SearchOutcome] = {}

    def run(self, client: EvaluationClient) -> None:
        """Trains and measures every row, in the config's order; writes the report after each. A row that comes to the
        run of an earlier one, as where a search chooses what stands there already, is not shown again."""
        self._suite = self._world()
        models: list[ReportModel] = []
        rows: dict[str, str] = {}
        report: Report | None = None
        for number, step in enumerate(self._steps, start=1):
            _say(f"\n[{number}/{len(self._steps)}] {step.entry.name}: {step.entry.says}")
            config = self._chosen(step)
            run = run_training(config, settings=self._settings)
            if run.id in rows:
                _say(f"the same run as {rows[run.id]}, whose row stands for both")
                continue
            rows[run.id] = step.entry.name
            models.append(self._measured(step.entry, config, run, client))
            report = self._report(models)
            _say(_worst([row for row in report.rows if row.model == step.entry.name]))
        assert report is not None, "a chain has a model"
        console = screen()
        console.print()
        title = f"The test suite of seed {self._config.seed}"
        print_grid(console, miniature_grid(title, {str(self._config.seed): report.rows}))
        for said in notices(report.rows):
            console.print(said, markup=False, highlight=False)
        _say(f"\nreport: {self._storage.root / HTML}")

    def _world(self) -> str:
        """Builds the world and its first model; the name of the test suite in the service."""
        world = WorldConfig(seed=self._config.seed)
        tree = to_tree(world)

        def work(_: RunHandle) -> dict[str, Any]:
            initial = build_initial_model(build_world(world, self._storage), self._storage)
            suite = publish_suite("test", seed=self._config.seed, storage=self._storage)
            return to_tree(WorldResult(initial=str(initial), suite=suite))

        _say("world: pictures, questions, a fresh model with a trained vision tower")
        run = run_once(
            self._store,
            run_id=f"world-{digest_of(tree)[:12]}",
            name="world",
            kind="world",
            config=tree,
            work=work,
        )
        return read_record(WorldResult, run.result, of=run.id).suite

    def _step(self, entry: ModelEntry) -> _Step:
        seed = f"seed={self._config.seed}"
        overrides = (seed, *entry.overrides)
        path = run_file(entry.train, beside=self._folder)
        search = None
        if entry.search is not None:
            file = run_file(entry.search, beside=self._folder)
            search = load_search(file, [seed, f"overrides=[{seed}]"])
        return _Step(
            entry=entry,
            config=load_config(TrainConfig, path, overrides),
            overrides=overrides,
            search=search,
        )

    def _chosen(self, step: _Step) -> TrainConfig:
        """The step's config with the point that its search chose; the step's own overrides come last."""
        if step.search is None:
            return step.config
        outcome = run_search(step.search, settings=self._settings)
        assert step.entry.search is not None
        if step.entry.search not in self._searches:
            _say(show(outcome))
            self._searches[step.entry.search] = outcome
        path = run_file(step.entry.train, beside=self._folder)
        return load_config(TrainConfig, path, [*outcome.knee_overrides, *step.overrides])

    def _measured(
        self, entry: ModelEntry, config: TrainConfig, run: RunRecord, client: EvaluationClient
    ) -> ReportModel:
        """The row's rates on the test suite, asked of the service."""
        trained = read_record(TrainResult, run.result, of=run.id)
        body = {
            "model": Path(trained.export).name,
            "suite": self._suite,
            "judges": list(self._config.judges),
            "decoding": to_tree(self._config.decoding),
        }

        def work(handle: RunHandle) -> EvaluationView:
            def on_progress(evaluation: EvaluationView) -> None:
                handle.progress(evaluation["progress"])

            evaluation = client.run(body, on_progress=on_progress)
            rows = tuple(Row(**tree) for tree in evaluation["rows"])
            return to_tree(EvaluateResult(evaluation=evaluation["id"], rows=rows))

        done = run_once(
            self._store,
            run_id=f"evaluate-{digest_of(body)[:12]}",
            name=entry.name,
            kind="evaluate",
            config=body,
            work=work,
            parent_id=run.id,
        )
        return ReportModel(
            name=entry.name,
            evaluation_id=read_record(EvaluateResult, done.result, of=done.id).evaluation,
            says=entry.says,
            config=config,
        )

    def _report(self, models: list[ReportModel]) -> Report:
        configs: dict[str, Any] = {
            "chain": self._config,
            "world": WorldConfig(seed=self._config.seed),
        }
        for step in self._steps:
            if step.entry.search in self._searches and step.search is not None:
                configs[f"search {step.search.config.name}"] = step.search.config
        return write_report(
            self._store,
            ReportInput(
                title=f"A safety mirage and its repair, seed {self._config.seed}",
                models=models,
                about=_ABOUT,
                configs=configs,
                versions=_versions(),
            ),
            self._storage.root,
        )


def _worst(rows: Sequence[Row]) -> str:
    """A model in a line: its rates in the condition where each is worst."""
    unsafe = {row.condition for row in rows if row.metric == "asr"}
    found = []
    for says, metric, is_unsafe, worst in (
        ("ASR up to", "asr", True, max),
        ("degenerate answers to unsafe questions up to", "degenerate_rate", True, max),
        ("refusals of safe ones up to", "refusal_rate", False, max),
        ("useful answers to safe ones down to", "useful_rate", False, min),
    ):
        values = [
            row.value
            for row in rows
            if row.metric == metric
            and (row.condition in unsafe) == is_unsafe
            and row.value is not None
        ]
        if values:
            found.append(f"{says} {percent(worst(values))}")
    return ", ".join(found)


def _versions() -> dict[str, str]:
    return {
        name: version(name)
        for name in ("safemirage", "torch", "transformers", "deepspeed", "ray", "peft")
    }


@contextmanager
def _service(
    config: ReproduceConfig, folder: Path, settings: Settings
) -> Iterator[EvaluationClient]:
    """A client of the service, which is ended on leaving unless the config keeps it."""
    file = run_file(config.serve, beside=folder)
    serve_config = load_config(ServeConfig, file, config.serve_overrides)
    service = start_service(serve_config, settings)
    _say(f"service: {service.url}/")
    try:
        with EvaluationClient(service.url, _token()) as client:
            yield client
    finally:
        if not config.keep_service:
            service.stop()


TOKEN_FILE = "SAFEMIRAGE_API_TOKEN_FILE"
"""Names a file that holds the token: a job's environment is shown to all."""


def _token() -> str | None:
    """The bearer token that this chain calls the service with."""
    if line := os.environ.get(TOKEN):
        return line.split()[-1]
    if place := os.environ.get(TOKEN_FILE):
        return Path(place).read_text(encoding="utf-8").strip()
    return None


def _say(line: str) -> None:
    print(line, flush=True)


def run_command(path: Path, overrides: Sequence[str]) -> int:
    """What `safemirage reproduce` does; returns its exit code."""
    config = load_config(ReproduceConfig, path, overrides)
    folder = run_file(path).parent
    settings = read_settings()
    try:
        with open_store(settings.store_url) as store:
            chain = Chain(config, folder, settings=settings, store=store)
            ray.init(
                address=address(),
                runtime_env=runtime_env(settings),
                log_to_driver=False,
                logging_level="warning",
            )
            with _service(config, folder, settings) as client:
                chain.run(client)
    except (TrainingFailed, SearchFailed, ServiceError) as error:
        print(error, file=sys.stderr)
        return 2 if isinstance(error, ServiceError) else 1
    except RunInterrupted as error:
        print(error, file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    from safemirage.cli import main

    main(["reproduce", *sys.argv[1:]])
