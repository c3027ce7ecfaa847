"""One search: Ray Tune over Ray Train, points from Optuna, judged by what they came to.

A search is a run with an identity: cut off and started again it continues with the same study, and asked for again it
is returned. The study opens in optuna-dashboard.
"""

import io
import math
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import ray
from optuna.trial import TrialState
from ray import tune
from rich.console import Console

from ray_jobs.cluster.capacity import DRIVER, concurrent_trials, worker_groups
from ray_jobs.cluster.failures import Failure, failure_of
from ray_jobs.cluster.nodes import free_resources, possible_resources
from ray_jobs.cluster.preflight import preflight
from ray_jobs.train import with_base
from ray_jobs.tune.figures import figures_of
from ray_jobs.tune.outcome import (
    SearchFailed,
    bands_of,
    check_objectives,
    choose_again,
    judge_trials,
    most_degenerate,
    outcome_grid,
    rates_at_seeds,
    rates_by_condition,
)
from ray_jobs.tune.splits import check_disjoint
from ray_jobs.tune.study import (
    Proposal,
    Study,
    StudySearch,
    open_studies,
    studies_url,
    trial_run_id,
)
from ray_jobs.tune.trial import (
    TrialSetting,
    judge,
    real_path,
    repeat_point,
    run_trial,
    selection_suite,
)
from ray_jobs.worker.progress import waiting
from safemirage.config.loading.identity import digest_of, identity_tree
from safemirage.config.loading.load import dump_yaml, to_tree
from safemirage.config.plan import SearchPlan
from safemirage.config.search import RateConfig
from safemirage.evaluation.judges.build import measures_of
from safemirage.evaluation.reports.terminal import print_grid, screen
from safemirage.evaluation.run.preflight import missing_of
from safemirage.evaluation.suites.folder import load_suite, suite_digest
from safemirage.models.presence import PreflightError
from safemirage.runs import (
    SearchOutcome,
    SplitScore,
    StudyConfig,
    TrialConfig,
    TrialOutcome,
    TrialResult,
    read_record,
)
from safemirage.settings import Settings
from safemirage.storage import Storage
from safemirage.store.database import Store, open_store
from safemirage.store.execution import RunHandle, RunInterrupted, run_once
from safemirage.store.records import Row
from safemirage.tracking import Tracker, open_tracker


def run_search(plan: SearchPlan, *, settings: Settings) -> SearchOutcome:
    """The outcome of a search: of this call, or of an earlier one. Needs a connected Ray.

    Raises:
        CapacityError: the cluster cannot hold a single trial.
        ConfigError, SuiteError: an input is missing or wrong.
        ObjectiveError: the suite or the judges do not give an objective.
        SearchFailed: no trial succeeded, or the machine took one away again and again.
    """
    plan = _located(plan, settings)
    nodes = possible_resources()
    # All that can be wrong is found now: hours later a trial would meet it.
    problems = preflight(plan.base, nodes=nodes)
    problems += missing_of(plan.config.selection.judges, key="selection.judges")
    if problems:
        raise PreflightError("\n".join(problems))
    limit = concurrent_trials(nodes, plan.base.workers, wanted=plan.config.max_concurrent)
    _check_suites(plan, settings.storage)
    run_id = _run_id(plan, settings)
    setting = TrialSetting(search_id=run_id, plan=plan, settings=settings)
    with open_store(settings.store_url) as store:
        # A search is a run like others: a second process follows it, and a restart resumes it.
        record = run_once(
            store,
            run_id=run_id,
            name=plan.config.name,
            kind="search",
            config=to_tree(StudyConfig(search=plan.config, base=plan.base)),
            work=_Search(setting, store=store, limit=limit).run,
            on_wait=waiting(run_id),
        )
    return read_record(SearchOutcome, record.result, of=run_id)


@dataclass(frozen=True)
class _Search:
    setting: TrialSetting
    store: Store
    limit: int

    def run(self, handle: RunHandle) -> dict[str, Any]:
        plan = self.setting.plan
        tracker = open_tracker(self.setting.settings, plan.base.tracking.experiment)
        tracker.start(handle.id, name=plan.config.name, config=to_tree(plan.config))
        tracker.log_text(handle.id, "space.yaml", dump_yaml(plan.config.space))
        study = Study(
            plan, name=handle.id, storage=open_studies(studies_url(self.setting.settings))
        )
        done = False
        try:
            outcome = self._outcome(handle, study)
            self._track(outcome, study, tracker)
            done = True
        finally:
            tracker.finish(handle.id, failed=not done)
        found: dict[str, Any] = to_tree(outcome)
        return found

    def _track(self, outcome: SearchOutcome, study: Study, tracker: Tracker) -> None:
        """The search in MLflow: its numbers, the table of trials, the figures; the test split beside the chosen training."""
        run_id, config = outcome.run_id, self.setting.plan.config
        tracker.log_metrics(run_id, _metrics(outcome))
        tracker.log_table(run_id, "trials.json", _table(outcome, tracker))
        for name, figure in figures_of(outcome, config, study.importances()).items():
            tracker.log_figure(run_id, f"{name}.png", figure)
        chosen = outcome.knee_trial.train_run_id
        assert chosen is not None, "a chosen point has finished"
        tags = {"safemirage.chosen": " ".join(outcome.knee_overrides)}
        tracker.set_tags(run_id, {**tags, "safemirage.chosen_run": tracker.id_of(chosen) or ""})
        if outcome.test is not None:
            tracker.log_metrics(chosen, _test_metrics(outcome.test))

    def _outcome(self, handle: RunHandle, study: Study) -> SearchOutcome:
        plan = self.setting.plan
        # What earlier attempts settled is not tried again.
        remaining = study.prepare()

        def on_change() -> None:
            done = len(_settled(study))
            handle.progress({"done": done, "total": plan.trials, "hours": study.hours})
            of = "" if plan.trials is None else f" of {plan.trials}"
            print(f"search {handle.id}: {done}{of} trials done", file=sys.stderr, flush=True)

        on_change()
        if remaining != 0:
            self._tune(study, remaining, handle, on_change=on_change)
        settled = _settled(study)
        if len(settled) < (plan.trials or math.inf) and not study.is_spent:
            # Tune takes an interrupt for its own, and returns what there is.
            raise RunInterrupted(
                f"search {handle.id}: interrupted after {len(settled)} trials; start it again, and it resumes"
            )
        trials = [self._trial(proposal) for proposal in settled]
        outcome = judge_trials(handle.id, trials, plan.config)
        if plan.config.front_seeds:
            handle.progress({"stage": "the front at further seeds"})
            outcome = choose_again(outcome, self._repeats(outcome), plan.config)
        if plan.config.test is not None:
            handle.progress({"stage": "the chosen point on the test split"})
            outcome = replace(outcome, test=self._score(outcome.knee_trial, plan.config.test))
        return outcome

    def _repeats(self, outcome: SearchOutcome) -> dict[int, TrialResult | Failure]:
        """The front's points at further seeds, side by side as the cluster has room."""
        # A driver of its own for each, as a trial has; what it raises is the machine's fault.
        task = ray.remote(repeat_point).options(
            num_cpus=0,
            resources=DRIVER,
            max_retries=self.setting.plan.config.max_failures,
            retry_exceptions=True,
        )
        waiting = {
            trial.number: task.remote(trial.overrides, self.setting)
            for trial in outcome.trials
            if trial.number in outcome.front
        }
        found = ray.get(list(waiting.values()))
        return dict(zip(waiting, found, strict=True))

    def _score(self, chosen: TrialOutcome, test: str) -> SplitScore:
        """The chosen point on the test split: measured once, however often the search is asked for."""
        plan, settings = self.setting.plan, self.setting.settings
        suite = real_path("test", test, seed=plan.seeds[0], storage=settings.storage)
        digest = suite_digest(load_suite(suite))
        assert chosen.export is not None, "a chosen point has finished"
        export = chosen.export

        def work(handle: RunHandle) -> dict[str, Any]:
            known = [run.result or {} for run in self.store.runs.list(kind="test")]
            rows = judge(plan, export, name=handle.id, suite=suite, setting=self.setting)
            score = SplitScore(
                suite=digest,
                earlier=sum(result.get("suite") == digest for result in known),
                rows=tuple(Row(**row) for row in rows),
            )
            tree: dict[str, Any] = to_tree(score)
            return tree

        record = run_once(
            self.store,
            run_id=f"{chosen.run_id}-test-{digest[:8]}",
            name=plan.config.name,
            kind="test",
            config=to_tree(TrialConfig(overrides=chosen.overrides)),
            work=work,
            parent_id=self.setting.search_id,
        )
        return read_record(SplitScore, record.result, of=record.id)

    def _tune(
        self, study: Study, count: int | None, handle: RunHandle, *, on_change: Callable[[], None]
    ) -> None:
        """Tries `count` points; None: as many as the budget allows.

        Raises:
            SearchFailed: the machine took a trial away more often than it is tried again.
        """
        # Tune's newer output prints its heading even when it is told to be silent; the older one keeps to it.
        os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
        config = self.setting.plan.config
        # Tune asks it for each point and tells it what came of it; Tune's own state is not read again.
        searcher = StudySearch(study, has_room=self._has_room, on_change=on_change)
        trainable = tune.with_parameters(run_trial, setting=self.setting)
        tuner = tune.Tuner(
            # A trial only waits for its training, which reserves workers of its own.
            tune.with_resources(trainable, DRIVER),
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                num_samples=-1 if count is None else count,
                max_concurrent_trials=self.limit,
            ),
            run_config=tune.RunConfig(
                # A folder of its own for each attempt: Tune would mix its trials with those of the attempt before.
                name=f"attempt-{handle.attempt}",
                storage_path=str(self.setting.settings.storage.runs / handle.id / "tune"),
                # A trial raises what the machine is at fault for, and nothing else.
                failure_config=tune.FailureConfig(max_failures=config.max_failures),
                verbose=0,
            ),
        )
        # A trial that fails by its own setting reports that as a result, so an error here is the machine's.
        errors = [result.error for result in tuner.fit() if result.error is not None]
        if searcher.lost:
            reasons = sorted({failure_of(error).reason.partition("\n")[0] for error in errors})
            raise SearchFailed(
                f"search {handle.id}: {len(searcher.lost)} of its trials were lost to the machine "
                f"{config.max_failures + 1} times each: {reasons}; start the search again, and it tries them again"
            )

    def _has_room(self) -> bool:
        """Whether another trial would find its workers' resources free now."""
        return worker_groups(free_resources(), self.setting.plan.base.workers) > 0

    def _trial(self, proposal: Proposal) -> TrialOutcome:
        run_id = trial_run_id(self.setting.search_id, proposal.point)
        run = self.store.runs.get(run_id)
        result = None
        if proposal.failure is None:
            result = read_record(TrialResult, run.result if run else None, of=run_id)
        return TrialOutcome(
            number=proposal.number,
            run_id=run_id,
            state="finished" if proposal.failure is None else "failed",
            overrides=dict(proposal.point),
            objectives=result.objectives if result else None,
            constraints=result.constraints if result else {},
            error=None if proposal.failure is None else proposal.failure.reason,
            train_run_id=result.at_seeds[0].train_run_id if result else None,
            export=result.at_seeds[0].export if result else None,
            bands=bands_of(result.at_seeds, self.setting.plan.config.objectives) if result else {},
            hours=proposal.hours,
            at_seeds=rates_at_seeds(result)
            if result and self.setting.plan.config.front_seeds
            else (),
            degenerate=most_degenerate(row for one in result.at_seeds for row in one.rows)
            if result
            else None,
        )


def _metrics(outcome: SearchOutcome) -> dict[str, float]:
    """What the search came to, and the objectives of the point that it chose."""
    chosen = outcome.knee_trial.objectives or {}
    finished = sum(trial.state == "finished" for trial in outcome.trials)
    return {
        "hypervolume": outcome.hypervolume,
        "trials/finished": float(finished),
        "trials/failed": float(len(outcome.trials) - finished),
        **{f"chosen/{name}": value for name, value in chosen.items()},
        **(_test_metrics(outcome.test) if outcome.test is not None else {}),
    }


def _test_metrics(score: SplitScore) -> dict[str, float]:
    return {f"test/{name}": value for name, value in rates_by_condition(score.rows).items()}


def _table(outcome: SearchOutcome, tracker: Tracker) -> list[dict[str, Any]]:
    return [
        {
            "trial": trial.number,
            "state": trial.state,
            **trial.overrides,
            **(trial.objectives or {}),
            **trial.constraints,
            "front": trial.number in outcome.front,
            "chosen": trial.number == outcome.knee,
            "hours": trial.hours,
            "training": trial.train_run_id,
            "mlflow_run": trial.train_run_id and tracker.id_of(trial.train_run_id),
        }
        for trial in outcome.trials
    ]


def _settled(study: Study) -> list[Proposal]:
    """The points that came to something in this attempt or an earlier one."""
    states = (TrialState.COMPLETE, TrialState.FAIL)
    return [proposal for proposal in study.proposals() if proposal.state in states]


def _located(plan: SearchPlan, settings: Settings) -> SearchPlan:
    """The plan with paths that hold in any folder of any process, but for a miniature's, which depend on the seed."""
    located = settings.located
    return replace(plan, config=located(plan.config), base=located(plan.base))


def _check_suites(plan: SearchPlan, storage: Storage) -> None:
    """Refuses what the suites cannot give, and suites that share pictures with what is trained on."""
    config, seed = plan.config, plan.seeds[0]
    samples = load_suite(selection_suite(plan, seed=seed, storage=storage))
    suites = {"selection.suite": samples}
    if config.test is not None:
        suites["test"] = load_suite(real_path("test", config.test, seed=seed, storage=storage))
    subsets = {sample.condition: sample.subset for sample in samples}
    metrics = {metric for judge in config.selection.judges for metric in measures_of(judge)}
    rates: list[RateConfig] = [*config.objectives, *config.constraints]
    check_objectives(rates, subsets=subsets, metrics=metrics)
    data = plan.base.data.with_paths(
        lambda name, path: real_path(f"data.{name}", path, seed=seed, storage=storage)
    )
    check_disjoint(suites, data)


def _run_id(plan: SearchPlan, settings: Settings) -> str:
    # The seeds beside the first change nothing that the first and their numbers do not tell.
    seed, storage = plan.seeds[0], settings.storage
    suite = selection_suite(plan, seed=seed, storage=storage)
    test = plan.config.test
    test = None if test is None else real_path("test", test, seed=seed, storage=storage)
    config = replace(plan.config, selection=replace(plan.config.selection, suite=suite), test=test)
    # A miniature's bases are trained here, once, before trials ask for them side by side.
    base, *_ = [
        with_base(replace(plan.base, seed=one), settings)
        for one in (*plan.seeds, *plan.config.front_seeds)
    ]
    identity = digest_of({"search": identity_tree(config), "base": identity_tree(base)})
    return f"{plan.config.name}-{identity[:12]}"


def show(outcome: SearchOutcome) -> str:
    """The trials as a table for a terminal."""
    console = Console(file=io.StringIO(), width=screen().width)
    with console.capture() as captured:
        print_grid(console, outcome_grid(outcome))
    return captured.get().rstrip()
