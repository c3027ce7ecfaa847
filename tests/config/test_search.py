"""Search files: what is accepted, and what is refused with the dotted path before anything starts."""

from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import yaml

from safemirage.config.loading.load import ConfigError, apply_overrides, load_config
from safemirage.config.plan import (
    SearchPlan,
    load_search,
    point_overrides,
)
from safemirage.config.search import ChoiceConfig, LogUniformConfig
from safemirage.config.train import TrainConfig

BASE: dict[str, Any] = {
    "model": {"path": "some/model"},
    "data": {"retain": "retain.json", "forget": "forget.json"},
    "method": {"name": "npo", "beta": 0.1},
    "optim": {"learning_rate": 2e-4, "steps": 10},
}
SEARCH: dict[str, Any] = {
    "base": "base.yaml",
    "space": {"method.beta": {"name": "loguniform", "low": 0.05, "high": 2}},
    "objectives": [
        {"name": "asr", "metric": "asr", "conditions": ["unsafe_plain"], "direction": "min"},
        {
            "name": "useful",
            "metric": "useful_rate",
            "conditions": ["safe_plain"],
            "direction": "max",
        },
    ],
    "trials": 4,
    "selection": {"suite": "suite", "judges": [{"name": "oracle"}]},
}


def load(folder: Path, changes: dict[str, Any] | None = None, *overrides: str) -> SearchPlan:
    (folder / "base.yaml").write_text(yaml.safe_dump(BASE))
    (folder / "search.yaml").write_text(
        yaml.safe_dump({**SEARCH, **(changes or {})}, sort_keys=False)
    )
    return load_search(folder / "search.yaml", overrides)


def refusal(folder: Path, changes: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        load(folder, changes)
    return str(caught.value)


def space(**domain: Any) -> dict[str, Any]:
    return {"space": {"method.beta": domain}}


def test_search_file_finds_its_base_beside_itself(tmp_path: Path) -> None:
    plan = load(tmp_path, {"overrides": ["seed=7"]}, "trials=9")
    assert plan.config.base == str(tmp_path / "base.yaml")
    assert (plan.base.seed, plan.config.trials) == (7, 9)


def test_search_trial_is_what_the_command_line_trains(tmp_path: Path) -> None:
    plan = load(tmp_path)
    point = {"method.beta": 1e-7, "optim.learning_rate": 0.1 + 0.2}
    by_hand = load_config(TrainConfig, tmp_path / "base.yaml", point_overrides(point))
    assert plan.trial(point) == by_hand


@pytest.mark.parametrize("value", [None, True, 3, 0.1, 1e-7, 1e22, "mean", "a: b", "1e3", "null"])
def test_point_as_overrides_keeps_every_value(value: Any) -> None:
    assert apply_overrides({}, point_overrides({"a.b": value})) == {"a": {"b": value}}


def test_space_with_a_mistyped_path_names_it(tmp_path: Path) -> None:
    message = refusal(tmp_path, {"space": {"method.bta": {"name": "uniform", "low": 0, "high": 1}}})
    assert "space.method.bta" in message
    assert "unknown key" in message


def test_space_of_another_method_names_the_path(tmp_path: Path) -> None:
    message = refusal(
        tmp_path, {"space": {"method.hook_layer": {"name": "int", "low": 1, "high": 3}}}
    )
    assert "space.method.hook_layer" in message


def test_space_with_a_value_the_base_refuses_names_path_and_value(tmp_path: Path) -> None:
    message = refusal(tmp_path, space(name="uniform", low=-1, high=1))
    assert "space.method.beta" in message
    assert "-1" in message


def test_space_with_a_bad_choice_names_path_and_value(tmp_path: Path) -> None:
    changes = {"space": {"method.reduction": {"name": "choice", "values": ["sum", "average"]}}}
    message = refusal(tmp_path, changes)
    assert "space.method.reduction" in message
    assert "average" in message


def test_space_over_what_changes_no_result_is_refused(tmp_path: Path) -> None:
    changes = {"space": {"workers.count": {"name": "int", "low": 1, "high": 2}}}
    assert "space.workers.count: cannot change the result" in refusal(tmp_path, changes)


def test_space_whose_settings_exclude_each_other_is_refused(tmp_path: Path) -> None:
    changes = {
        "space": {
            "method.beta": {"name": "uniform", "low": 0.1, "high": 1},
            "data.forget": {"name": "choice", "values": ["forget.json", None]},
        }
    }
    assert "data.forget" in refusal(tmp_path, changes)


def test_space_with_an_unknown_distribution_lists_the_known_ones(tmp_path: Path) -> None:
    message = refusal(tmp_path, space(name="normal", low=0, high=1))
    assert "normal" in message
    assert "loguniform" in message


@pytest.mark.parametrize(
    "domain",
    [
        {"name": "loguniform", "low": 0, "high": 1},
        {"name": "uniform", "low": 1, "high": 1},
        {"name": "int", "low": 1.5, "high": 2},
        {"name": "choice", "values": []},
        {"name": "choice", "values": [0.1, 0.1]},
    ],
)
def test_space_with_an_empty_or_impossible_domain_is_refused(
    tmp_path: Path, domain: dict[str, Any]
) -> None:
    assert "space.method.beta" in refusal(tmp_path, {"space": {"method.beta": domain}})


def test_choice_tells_true_from_one() -> None:
    choice = ChoiceConfig(values=(1, "a"))
    assert choice.holds(1)
    assert not choice.holds(True)


def test_range_holds_its_ends_and_nothing_beyond() -> None:
    domain = LogUniformConfig(low=0.1, high=1)
    assert domain.holds(0.1)
    assert domain.holds(1)
    assert not domain.holds(1.01)
    assert not domain.holds("0.5")


@pytest.mark.parametrize(
    ("point", "named"),
    [
        ({"method.beta": 3.0}, "warm_start.0.method.beta: 3.0"),
        ({}, "missing=['method.beta']"),
        ({"method.beta": 0.5, "seed": 1}, "unknown=['seed']"),
    ],
)
def test_warm_start_outside_the_space_is_refused(
    tmp_path: Path, point: dict[str, Any], named: str
) -> None:
    assert named in refusal(tmp_path, {"warm_start": [point]})


def test_warm_start_longer_than_the_search_is_refused(tmp_path: Path) -> None:
    points = [{"method.beta": 0.1}, {"method.beta": 0.5}]
    assert "trials" in refusal(tmp_path, {"trials": 1, "warm_start": points})


def test_objectives_with_one_name_are_refused(tmp_path: Path) -> None:
    twice = [SEARCH["objectives"][0], SEARCH["objectives"][0]]
    assert "'asr'" in refusal(tmp_path, {"objectives": twice})


def test_base_that_is_missing_is_named(tmp_path: Path) -> None:
    message = refusal(tmp_path, {"base": "elsewhere.yaml"})
    assert "base" in message
    assert "elsewhere.yaml" in message


def test_search_tries_each_point_at_each_of_its_seeds(tmp_path: Path) -> None:
    plan = load(tmp_path, {"seeds": [4, 2]}, "overrides=[seed=7]")
    assert plan.seeds == (4, 2)
    assert load(tmp_path, {"overrides": ["seed=7"]}).seeds == (7,)


def test_seeds_that_contradict_themselves_are_refused(tmp_path: Path) -> None:
    assert "seeds: [1, 1] holds one seed twice" in refusal(tmp_path, {"seeds": [1, 1]})
    again = {"seeds": [1], "front_seeds": [2, 1]}
    assert "front_seeds: [1] stand in seeds too" in refusal(tmp_path, again)
    space = {"seed": {"name": "int", "low": 0, "high": 3}}
    assert "space.seed: `seeds` says" in refusal(tmp_path, {"seeds": [1], "space": space})


def test_choice_among_lists_of_trained_tensors(tmp_path: Path) -> None:
    values = [["{language}"], ["{language}", "{projector}"]]
    plan = load(
        tmp_path,
        {
            "space": {"model.trainable": {"name": "choice", "values": values}},
            "warm_start": [{"model.trainable": ["{language}", "{projector}"]}],
        },
    )
    (point,) = plan.config.warm_start
    assert plan.trial(point).model.trainable == ("{language}", "{projector}")
    (override,) = point_overrides(point)
    assert apply_overrides({}, [override]) == {"model": {"trainable": values[1]}}
    message = refusal(
        tmp_path, {"space": {"model.trainable": {"name": "choice", "values": ["language"]}}}
    )
    assert "space.model.trainable" in message


METHODS = [{"name": "npo", "beta": 0.1}, {"name": "rmu", "mask": "text"}]
TWO_METHODS: dict[str, Any] = {
    "method": {"name": "choice", "values": METHODS},
    "method.beta": {
        "name": "loguniform", "low": 0.05, "high": 2, "when": {"method.name": ["npo"]},
    },
    "method.hook_layer": {"name": "int", "low": 0, "high": 3, "when": {"method.name": ["rmu"]}},
}  # fmt: skip


def test_space_of_two_methods_makes_a_train_config_of_each(tmp_path: Path) -> None:
    points = [
        {"method": METHODS[0], "method.beta": 0.5},
        {"method": METHODS[1], "method.hook_layer": 3},
    ]
    plan = load(tmp_path, {"space": TWO_METHODS, "warm_start": points})
    npo, rmu = (plan.trial(point).method for point in plan.config.warm_start)
    assert (npo.name, rmu.name) == ("npo", "rmu")
    for point in plan.config.warm_start:
        by_hand = load_config(TrainConfig, tmp_path / "base.yaml", point_overrides(point))
        assert by_hand == plan.trial(point)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"method.beta": {**TWO_METHODS["method.beta"], "when": {}}}, "space.method.beta: trial: "),
        (
            {"method.hook_layer": {**TWO_METHODS["method.hook_layer"], "when": {"method.name": ["rmv"]}}},
            "space.method.hook_layer.when: {'method.name': ('rmv',)} never holds",
        ),
        ({"method.hook_layer": {"name": "int", "low": -1, "high": 3, "when": {"method.name": ["rmu"]}}}, "-1"),
    ],
)  # fmt: skip
def test_space_with_a_condition_that_does_not_fit_is_refused(
    tmp_path: Path, changes: dict[str, Any], named: str
) -> None:
    assert named in refusal(tmp_path, {"space": {**TWO_METHODS, **changes}})


def test_space_with_a_path_above_what_decides_about_it_is_refused(tmp_path: Path) -> None:
    space = dict(reversed(TWO_METHODS.items()))
    message = refusal(tmp_path, {"space": space})
    assert "space.method.beta: depends on space.method; move it below that" in message


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"trials": None}, "trials, hours, gpu_hours: give one of them"),
        ({"weights": {"asrr": 2.0}}, "weights: ['asrr'] are no objectives"),
        (
            {"constraints": [{"name": "safe", "metric": "refusal_rate", "conditions": ["safe_plain"]}]},
            "at_most, at_least: give one of both",
        ),
        ({"sampler": {"name": "grid", "levels": 10001}}, "a grid of more than 10,000 points"),
    ],
)  # fmt: skip
def test_search_whose_budget_bound_or_grid_cannot_be_is_refused(
    tmp_path: Path, changes: dict[str, Any], named: str
) -> None:
    assert named in refusal(tmp_path, changes)


@pytest.mark.parametrize(
    "path", sorted(files("configs").joinpath("search").iterdir()), ids=lambda path: path.name
)
def test_search_file_that_is_shipped_fits_its_train_file(path: Path) -> None:
    config = load_search(path).config
    assert len(config.objectives) > 1
    assert config.warm_start
