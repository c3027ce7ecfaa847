"""Objectives from evaluation rows; front and knee from trials."""

import io
import json
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from ray_jobs.cluster.failures import Failure
from ray_jobs.tune.outcome import (
    ObjectiveError,
    SearchFailed,
    check_objectives,
    choose_again,
    judge_trials,
    most_degenerate,
    objective_values,
    outcome_grid,
    worst_objectives,
)
from safemirage.config.loading.load import build_config, to_tree
from safemirage.config.search import ObjectiveConfig, SearchConfig
from safemirage.evaluation.reports.terminal import print_grid
from safemirage.runs import (
    SearchOutcome,
    SeedRates,
    SeedResult,
    TrialOutcome,
    TrialResult,
    read_record,
)
from safemirage.store.records import Row
from tests.evaluation.reports.test_terminal import check_screen

ASR = ObjectiveConfig(name="asr", metric="asr", conditions=("plain", "what"), direction="min")
USEFUL = ObjectiveConfig(
    name="useful", metric="useful_rate", conditions=("safe", "share"), direction="max"
)
OBJECTIVES = (ASR, USEFUL)


def search(**changes: Any) -> SearchConfig:
    tree = {
        "base": "base.yaml",
        "space": {"method.beta": {"name": "uniform", "low": 0, "high": 1}},
        "objectives": to_tree(OBJECTIVES),
        "trials": 9,
        "selection": {"suite": "suite", "judges": [{"name": "oracle"}]},
    }
    return build_config(SearchConfig, {**tree, **changes})


def row(condition: str, metric: str, value: float | None) -> dict[str, Any]:
    return {
        "model": "m",
        "condition": condition,
        "metric": metric,
        "value": value,
        "low": 0,
        "high": 1,
        "n": 9,
    }


ROWS = [
    row("plain", "asr", 0.25),
    row("what", "asr", 0.75),
    row("plain", "refusal_rate", 0.0),
    row("safe", "useful_rate", 1.0),
    row("share", "useful_rate", 0.5),
]


def test_objectives_of_several_seeds_are_each_the_worst_of_them() -> None:
    found = [{"asr": 0.25, "useful": 0.875}, {"asr": 0.0, "useful": 0.5}]
    assert worst_objectives(found, OBJECTIVES) == {"asr": 0.25, "useful": 0.5}


def trial(number: int, asr: float | None, useful: float = 0.0, *, run_id: str = "") -> TrialOutcome:
    return TrialOutcome(
        number=number,
        run_id=run_id or f"trial-{number}",
        state="failed" if asr is None else "finished",
        overrides={"method.beta": number + 0.5, "method.reduction": "sum"},
        objectives=None if asr is None else {"asr": asr, "useful": useful},
        error="ValueError: no such file\n\nTraceback" if asr is None else None,
        train_run_id=None,
        export=None,
    )


def test_objectives_take_the_worst_condition_in_their_direction() -> None:
    assert objective_values(ROWS, OBJECTIVES) == {"asr": 0.75, "useful": 0.5}


def test_objectives_take_the_mean_when_asked_to() -> None:
    mean = ObjectiveConfig(
        name="asr", metric="asr", conditions=("plain", "what"), direction="min", over="mean"
    )
    assert objective_values(ROWS, [mean]) == {"asr": 0.5}


def test_objective_of_a_condition_that_was_not_evaluated_names_it() -> None:
    with pytest.raises(ObjectiveError, match=r"objectives\.useful.*'share'"):
        objective_values(ROWS[:-1], OBJECTIVES)


@pytest.mark.parametrize("value", [None, float("nan")])
def test_objective_without_a_scored_answer_is_no_number(value: float | None) -> None:
    with pytest.raises(ObjectiveError, match="none of its answers could be scored"):
        objective_values([row("plain", "asr", value), *ROWS[1:]], OBJECTIVES)


def test_outcome_prefers_the_useful_model_over_gibberish_with_a_perfect_asr() -> None:
    outcome = judge_trials(
        "s", [trial(0, 0.0, 0.0), trial(1, 0.02, 0.92), trial(2, 0.5, 0.9)], search()
    )
    assert outcome.front == (0, 1)
    assert outcome.knee == 1
    assert outcome.knee_overrides == ("method.beta=1.5", 'method.reduction="sum"')
    assert outcome.hypervolume == pytest.approx(0.98 * 0.92)


def test_outcome_keeps_failed_trials_with_their_error_out_of_the_front() -> None:
    outcome = judge_trials("s", [trial(0, None), trial(1, 0.5, 0.5)], search())
    assert outcome.front == (1,)
    assert [item.state for item in outcome.trials] == ["failed", "finished"]
    assert "no such file" in (outcome.trials[0].error or "")


def test_outcome_counts_a_point_that_was_proposed_twice_once() -> None:
    outcome = judge_trials(
        "s", [trial(0, 0.1, 0.9), trial(3, 0.1, 0.9, run_id="trial-0")], search()
    )
    assert outcome.front == (0,)
    assert len(outcome.trials) == 2


def bounded(number: int, asr: float, refusals: float) -> TrialOutcome:
    return replace(trial(number, asr, 0.5), constraints={"over_refusal": refusals})


BOUND = {
    "constraints": [
        {"name": "over_refusal", "metric": "refusal_rate", "conditions": ["safe"], "at_most": 0.05}
    ]
}


def test_outcome_has_only_points_on_its_front_that_keep_the_constraints() -> None:
    trials = [bounded(0, 0.0, 0.06), bounded(1, 0.25, 0.05), bounded(2, 0.5, 0.0)]
    assert judge_trials("s", trials, search(**BOUND)).front == (1,)
    with pytest.raises(
        SearchFailed, match=r"none of its 1 trials keeps .* nearest is trial 0 .*0\.06"
    ):
        judge_trials("s", trials[:1], search(**BOUND))


def test_outcome_chooses_by_the_weights_of_the_objectives() -> None:
    trials = [trial(0, 0.0, 0.6), trial(1, 0.3, 0.8)]
    assert judge_trials("s", trials, search()).knee == 1
    assert judge_trials("s", trials, search(weights={"asr": 3.0})).knee == 0


def repeated(*rates: float) -> TrialResult:
    at_seeds = tuple(
        SeedResult(
            seed=seed,
            objectives={"asr": rate, "useful": 0.8},
            train_run_id="t",
            export="e",
            rows=(),
        )
        for seed, rate in enumerate(rates, start=1)
    )
    return TrialResult(objectives=at_seeds[0].objectives, at_seeds=at_seeds)


def test_outcome_chooses_again_by_the_mean_over_seeds_and_drops_what_fails_there() -> None:
    lucky, steady, broken = trial(0, 0.0, 0.6), trial(1, 0.1, 0.8), trial(2, 0.05, 0.7)
    first = judge_trials("s", [with_seed(one) for one in (lucky, steady, broken)], search())
    failure = Failure("method", "TrainingDiverged: a loss is not finite")
    again = {0: repeated(0.9, 0.9), 1: repeated(0.1, 0.2), 2: failure}
    chosen = choose_again(first, again, search(front_seeds=[1, 2]))
    assert (chosen.front, chosen.knee) == (first.front, 1)
    assert [one.seed for one in chosen.knee_trial.at_seeds] == [0, 1, 2]
    assert chosen.trials[2].repeat_error == failure.reason
    shown = outcome_grid(chosen).lines[1]
    assert "0.1000 (0.1000 to 0.2000)" in shown
    with pytest.raises(
        SearchFailed, match=r"none of the 1 points of the front holds at front_seeds"
    ):
        choose_again(first, {2: failure}, search(front_seeds=[1, 2]))


def with_seed(one: TrialOutcome) -> TrialOutcome:
    rates = SeedRates(seed=0, objectives=one.objectives or {}, constraints={})
    return replace(one, at_seeds=(rates,))


def test_outcome_without_a_finished_trial_is_a_failure_that_says_why() -> None:
    with pytest.raises(SearchFailed, match=r"none of its 2 trials succeeded.*no such file"):
        judge_trials("s", [trial(0, None), trial(1, None)], search())


def test_outcome_comes_back_from_its_record() -> None:
    outcome = judge_trials("s", [trial(0, 0.0, 0.0), trial(1, None)], search())
    assert read_record(SearchOutcome, json.loads(json.dumps(to_tree(outcome))), of="s") == outcome


SUBSETS = {"plain": "unsafe", "what": "unsafe", "safe": "safe", "share": "safe"}


def test_objectives_that_suite_and_judges_give_are_accepted() -> None:
    check_objectives(OBJECTIVES, subsets=SUBSETS, metrics={"asr", "useful_rate"})


def test_objectives_that_cannot_be_given_are_all_named_before_anything_is_trained() -> None:
    wrong = ObjectiveConfig(name="odd", metric="asr", conditions=("safe", "plaim"), direction="min")
    with pytest.raises(ObjectiveError) as caught:
        check_objectives([wrong, USEFUL], subsets=SUBSETS, metrics={"asr"})
    lines = str(caught.value).splitlines()
    assert lines == [
        "objectives.odd: asr is counted on unsafe conditions only, and 'safe' is a safe one",
        "objectives.odd: condition 'plaim' is not in the suite; it has ['plain', 'safe', 'share', 'what']",
        "objectives.useful: no judge measures 'useful_rate'; they measure ['asr']",
    ]


def test_objectives_of_several_judges_count_the_first() -> None:
    rows = [row("plain", "asr", 0.1), row("what", "asr", 0.2), row("plain", "asr", 1.0)]
    assert objective_values(rows, [ASR]) == {"asr": 0.2}


def test_outcome_shows_degenerate_answers_and_fits_80_columns() -> None:
    rows = [
        *(Row(**{**one, "judge": "oracle", "unscored": 0}) for one in ROWS),
        Row(**{**row("what", "degenerate_rate", 0.825), "judge": "oracle", "unscored": 0}),
        Row(**{**row("safe", "degenerate_rate", 1.0), "judge": "oracle", "unscored": 0}),
    ]
    assert most_degenerate(rows) == 0.825
    assert most_degenerate(rows[:5]) is None
    trials = [replace(trial(number, 0.25 * number), degenerate=0.825) for number in range(3)]
    trials.append(
        replace(trial(3, None), overrides={"model.trainable": ["{language}.layers.0"] * 6})
    )
    grid = outcome_grid(judge_trials("search-" + "0" * 12, trials, search()))
    console = Console(width=80, file=io.StringIO())
    with console.capture() as captured:
        print_grid(console, grid)
    check_screen(captured.get(), grid)
    assert captured.get().count("0.8250") == 3
    assert "failed: ValueError: no such file" in " ".join(captured.get().split())
