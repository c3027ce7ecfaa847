"""Config files, overrides and the messages about bad ones."""

import subprocess
import sys
import textwrap
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from safemirage.config.evaluate import EvaluateConfig
from safemirage.config.generators import OpenAIConfig
from safemirage.config.judges import ModelJudgeConfig
from safemirage.config.loading.load import (
    ConfigError,
    apply_overrides,
    build_config,
    dump_yaml,
    load_config,
    parse_yaml,
    to_tree,
)
from safemirage.config.method import NPOConfig
from safemirage.config.train import DeepSpeedEngineConfig, TrainConfig

GOOD = """
model: {path: owner/model}
data: {retain: retain.json, forget: forget.json}
method: {name: npo, beta: 0.9}
optim: {learning_rate: 5e-7, epochs: 1}
"""


@pytest.fixture
def good(tmp_path: Path) -> Path:
    path = tmp_path / "good.yaml"
    path.write_text(GOOD)
    return path


def error_of(path: Path, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(TrainConfig, path, overrides)
    return str(caught.value)


def test_load_good_file_gives_typed_tree(good: Path) -> None:
    config = load_config(TrainConfig, good)
    assert config.method == NPOConfig(beta=0.9)
    assert config.engine == DeepSpeedEngineConfig()
    assert config.optim.learning_rate == 5e-7


def test_load_dumped_config_gives_the_same_config(good: Path, tmp_path: Path) -> None:
    config = load_config(TrainConfig, good, ["model.lora.rank=8", "model.trainable=[a, b]"])
    again = tmp_path / "again.yaml"
    again.write_text(dump_yaml(config))
    assert load_config(TrainConfig, again) == config
    assert build_config(TrainConfig, to_tree(config)) == config


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5e-7", 5e-7),
        ("1E3", 1000.0),
        ("-.5e+2", -50.0),
        ("3", 3),
        ("0.25", 0.25),
        ("2026-11-20", "2026-11-20"),
        ("e5", "e5"),
        ("1e", "1e"),
        ("010", 10),
        ("0x1F", 31),
        ("1:30", "1:30"),
        ("true", True),
        ("FALSE", False),
        ("yes", "yes"),
        ("No", "No"),
        ("on", "on"),
        ("OFF", "OFF"),
        ("y", "y"),
        ("~", None),
        ("", None),
    ],
)
def test_parse_yaml_reads_plain_words_as_yaml_1_2_does(text: str, value: Any) -> None:
    for parsed in (parse_yaml(text), apply_overrides({}, [f"a={text}"])["a"]):
        assert parsed == value
        assert type(parsed) is type(value)


@pytest.mark.parametrize("text", ["yes", "010", "08", "1:30", "1e5", "5e-7", "true", "null", "~"])
def test_text_that_looks_like_something_else_is_dumped_as_text(text: str) -> None:
    dumped = dump_yaml({text: text})
    assert parse_yaml(dumped) == {text: text}
    assert yaml.safe_load(dumped) == {text: text}


def test_labels_of_a_judge_may_be_yes_and_no(tmp_path: Path) -> None:
    path = tmp_path / "evaluate.yaml"
    path.write_text(
        "model: {name: openai, url: http://127.0.0.1:1/v1, model: m}\n"
        "suite: suite\n"
        "judges:\n"
        "  - {name: model, title: on, model: {name: openai, url: http://127.0.0.1:2/v1, model: no},\n"
        "     prompt: {kind: word, labels: {yes: comply, no: refuse}}}\n"
    )
    (judge,) = load_config(EvaluateConfig, path).judges
    assert isinstance(judge, ModelJudgeConfig)
    assert (judge.title, judge.prompt.labels) == ("on", {"yes": "comply", "no": "refuse"})
    overrides = ["judges.0.prompt.labels={on: comply, off: refuse}", "judges.0.model.model=off"]
    (judge,) = load_config(EvaluateConfig, path, overrides).judges
    assert isinstance(judge, ModelJudgeConfig)
    assert isinstance(judge.model, OpenAIConfig)
    assert (judge.model.model, dict(judge.prompt.labels)) == (
        "off",
        {"on": "comply", "off": "refuse"},
    )


def test_overrides_replace_and_create_nodes(good: Path) -> None:
    config = load_config(TrainConfig, good, ["method.beta=0.2", "checkpoint.keep=5", "seed=7"])
    assert isinstance(config.method, NPOConfig)
    assert (config.method.beta, config.checkpoint.keep, config.seed) == (0.2, 5, 7)


def test_overrides_value_with_equals_sign_is_kept_whole() -> None:
    assert apply_overrides({}, ["a.b='x=y'"]) == {"a": {"b": "x=y"}}


def test_overrides_leave_the_base_tree_alone() -> None:
    base = {"a": {"b": [1]}}
    apply_overrides(base, ["a.b=2", "a.c=3"])
    assert base == {"a": {"b": [1]}}


def test_overrides_below_null_make_a_mapping() -> None:
    assert apply_overrides({"lora": None}, ["lora.rank=4"]) == {"lora": {"rank": 4}}


def test_overrides_reach_into_lists() -> None:
    base = {"judges": [{"name": "a", "model": {"url": "x"}}, {"name": "b"}], "words": ["p", "q"]}
    changed = apply_overrides(base, ["judges.0.model.url=y", "judges.1.title=t", "words.1=r"])
    assert changed == {
        "judges": [{"name": "a", "model": {"url": "y"}}, {"name": "b", "title": "t"}],
        "words": ["p", "r"],
    }
    assert base["judges"][0] == {"name": "a", "model": {"url": "x"}}


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (
            "judges.2.model.url=x",
            "judges.2.model.url: judges is a list of length 2, and '2' is no index of it; allowed: 0 to 1. "
            "judges=[...] replaces the whole list",
        ),
        ("judges.-1.name=x", "judges is a list of length 2, and '-1' is no index of it"),
        ("judges.name=x", "judges is a list of length 2, and 'name' is no index of it"),
        (
            "none.0=x",
            "none.0: none is a list of length 0, and '0' is no index of it; allowed: none",
        ),
        ("judges.0.x=1", "judges.0.x: cannot be set, because judges.0 is 'a', not a mapping"),
    ],
)
def test_overrides_outside_a_list_name_its_length(item: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        apply_overrides({"judges": ["a", "b"], "none": []}, [item])
    assert message in str(caught.value)


@pytest.mark.parametrize("item", ["method.beta", "=3", "a..b=1", ".a=1"])
def test_overrides_malformed_item_is_named(good: Path, item: str) -> None:
    assert error_of(good, item) == f"override {item!r}: write it as a.b=value"


def test_overrides_below_a_scalar_name_the_scalar(good: Path) -> None:
    message = error_of(good, "method.beta.high=1")
    assert message == "method.beta.high: cannot be set, because method.beta is 0.9, not a mapping"


def test_overrides_value_that_is_not_yaml_is_named(good: Path) -> None:
    assert error_of(good, "seed=[1").startswith("override 'seed=[1': the value is not YAML")


def test_load_duplicate_key_names_key_and_line(tmp_path: Path) -> None:
    path = tmp_path / "twice.yaml"
    path.write_text("seed: 1\noptim:\n  steps: 1\n  steps: 2\n")
    message = error_of(path)
    assert "the key 'steps' stands twice" in message
    assert "line 4" in message


def test_load_key_that_is_a_list_is_not_yaml_for_us(tmp_path: Path) -> None:
    path = tmp_path / "key.yaml"
    path.write_text("? [a, b]\n: 1\n")
    assert "the key ['a', 'b'] is not a plain value" in error_of(path)


def test_load_unknown_keys_list_the_allowed_ones(good: Path) -> None:
    message = error_of(good, "optim.lr=1", "modle.path=x")
    assert f"{good}: optim.lr: unknown key (value 1); allowed keys: accumulation, " in message
    assert "learning_rate" in message
    assert (
        f"{good}: modle: unknown key (value {{'path': 'x'}}); allowed keys: checkpoint, " in message
    )


def test_load_option_of_another_method_is_named_without_tag_in_path(good: Path) -> None:
    message = error_of(good, "method.hook_layer=7")
    assert message.startswith(
        f"{good}: method.hook_layer: unknown key (value 7); it is an option of 'rmu'; "
    )
    assert "'npo' has the keys beta, " in message


def test_load_option_of_another_engine_is_named(good: Path) -> None:
    message = error_of(good, "engine.name=torch", "engine.stage=2")
    assert (
        "engine.stage: unknown key (value 2); it is an option of 'deepspeed'; 'torch' has the keys name"
        in message
    )


def test_load_unknown_method_lists_the_known(good: Path) -> None:
    message = error_of(good, "method={name: grpo}")
    assert "method.name: 'grpo' is unknown; allowed: 'sft', 'gradient_ascent', " in message


@pytest.mark.parametrize("name", ["dpo", "idk"])
def test_load_method_without_its_preferred_answers_says_what_to_give(good: Path, name: str) -> None:
    message = error_of(good, f"method={{name: {name}}}", "data.forget=forget.json")
    assert f"data.preferred: method '{name}' needs what to say instead" in message
    assert "data.preferred_answers: refusals, idk, or a list of texts" in message


def test_load_preferred_answers_are_a_file_or_a_list_and_not_both(good: Path) -> None:
    override = "data.preferred_answers=[sorry]"
    assert "give one of them" in error_of(good, "data.preferred=preferred.json", override)
    assert load_config(TrainConfig, good, [override]).data.preferred_answers == ("sorry",)
    named = load_config(TrainConfig, good, ["data.preferred_answers=idk"])
    assert named.data.preferred_answers == "idk"


@pytest.mark.parametrize("value", ["polite", "[]"])
def test_load_preferred_answers_of_an_unknown_list_are_refused(good: Path, value: str) -> None:
    message = error_of(good, f"data.preferred_answers={value}")
    assert "give refusals or idk, or a list of texts" in message


def test_load_decoupling_without_its_file_is_refused(good: Path) -> None:
    message = error_of(good, "method={name: sft, decouple_weight: 0.5}")
    assert "data.decouple: method.decouple_weight is above 0" in message


def test_load_union_without_name_asks_for_it(good: Path) -> None:
    message = error_of(good, "engine={stage: 2}")
    assert "engine.name: missing; it says which kind it is: 'torch', 'deepspeed'" in message


def test_load_scalar_for_a_mapping_lists_what_it_holds(good: Path) -> None:
    message = error_of(good, "method=npo", "optim=3")
    assert (
        "method: 'npo' is not a mapping; give one with a name: 'sft', 'gradient_ascent', "
        in message
    )
    assert "optim: 3 is not a mapping; allowed keys: accumulation, " in message


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("seed='5'", "seed: '5' is not allowed: Input should be a valid integer"),
        ("seed=true", "seed: True is not allowed: Input should be a valid integer"),
        ("method.beta=high", "method.beta: 'high' is not allowed: Input should be a valid number"),
        ("method.beta=0", "method.beta: 0 is not allowed: Input should be greater than 0"),
        ("model.lora.rank=0", "model.lora.rank: 0 is not allowed"),
        (
            "model.trainable=[a, 3]",
            "model.trainable.1: 3 is not allowed: Input should be a valid string",
        ),
        ("model.dtype=int8", "model.dtype: 'int8' is not allowed: Input should be 'float32', "),
        ("engine.stage=4", "engine.stage: 4 is not allowed"),
    ],
)
def test_load_wrong_value_names_path_value_and_what_is_allowed(
    good: Path, override: str, expected: str
) -> None:
    overrides = ["engine.name=deepspeed", override]
    assert error_of(good, *overrides).startswith(f"{good}: {expected}")


def test_load_missing_keys_are_named(tmp_path: Path) -> None:
    path = tmp_path / "empty.yaml"
    path.write_text("")
    lines = error_of(path).splitlines()
    assert f"{path}: model: missing, and has no default" in lines
    assert f"{path}: optim: missing, and has no default" in lines


def test_load_many_problems_are_all_reported_at_once(good: Path) -> None:
    message = error_of(good, "seed=x", "optim.lr=1", "method.alpha=1", "model.dtype=int8")
    paths = {line.removeprefix(f"{good}: ").split(":")[0] for line in message.splitlines()}
    assert paths == {"seed", "optim.lr", "method.alpha", "model.dtype"}


def test_load_steps_and_epochs_together_show_both_values(good: Path) -> None:
    message = error_of(good, "optim.steps=3")
    assert (
        message == f"{good}: optim: give one of steps and epochs; now steps is 3 and epochs is 1.0"
    )


def test_load_method_without_forget_set_names_the_field(good: Path) -> None:
    assert error_of(good, "data.forget=null").startswith(f"{good}: data.forget: method 'npo'")


def test_load_missing_file_says_so(tmp_path: Path) -> None:
    path = tmp_path / "none.yaml"
    assert error_of(path) == f"{path}: cannot be read: No such file or directory"


def test_load_folder_as_file_says_so(tmp_path: Path) -> None:
    assert error_of(tmp_path) == f"{tmp_path}: cannot be read: Is a directory"


def test_load_other_encoding_says_so(tmp_path: Path) -> None:
    path = tmp_path / "latin.yaml"
    path.write_bytes("seed: 1 # für".encode("latin-1"))
    assert error_of(path) == f"{path}: is not UTF-8 text: invalid start byte at byte 11"


@pytest.mark.parametrize(("text", "kind"), [("- a\n", "list"), ("hello", "str"), ("3", "int")])
def test_load_file_without_a_mapping_says_what_it_holds(
    tmp_path: Path, text: str, kind: str
) -> None:
    path = tmp_path / "other.yaml"
    path.write_text(text)
    assert error_of(path) == f"{path}: holds {kind}, but a config file is a mapping of keys"


def test_load_broken_yaml_says_where(tmp_path: Path) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text("a: [1\n")
    assert error_of(path).startswith(f"{path}: is not YAML")


def test_build_value_that_yaml_cannot_hold_is_named(good: Path) -> None:
    tree = to_tree(load_config(TrainConfig, good))
    tree["model"]["path"] = Path("x")
    with pytest.raises(ConfigError, match=r"^config: model\.path: PosixPath\('x'\) is PosixPath"):
        build_config(TrainConfig, tree)


@dataclass(frozen=True, kw_only=True)
class Leaf:
    size: int = 1


@dataclass(frozen=True, kw_only=True)
class Nested:
    leaves: tuple[Leaf, ...] = ()
    named: dict[str, Leaf] = field(default_factory=dict)
    pair: tuple[int, str] = (0, "")


@pytest.mark.parametrize(
    ("tree", "path"),
    [
        ({"leaves": [{"size": 1}, {"size": "x"}]}, "leaves.1.size"),
        ({"named": {"a": {"size": "x"}}}, "named.a.size"),
        ({"pair": [1, 2]}, "pair.1"),
        ({"leaves": [3]}, "leaves.0"),
    ],
)
def test_build_error_inside_lists_and_mappings_has_its_path(
    tree: dict[str, Any], path: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        build_config(Nested, tree)
    assert str(caught.value).startswith(f"config: {path}: ")


def test_load_bad_file_in_fresh_interpreter_imports_nothing_heavy(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(GOOD + "sede: 3\n")
    code = f"""
        import sys
        from safemirage.config import ConfigError, load_config
        from safemirage.config.train import TrainConfig
        try:
            load_config(TrainConfig, {str(path)!r})
        except ConfigError as error:
            print(error)
        heavy = {{"torch", "ray", "transformers", "deepspeed", "mlflow", "numpy", "scipy"}}
        print(sorted(heavy & set(sys.modules)))
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True
    )
    problem, heavy = result.stdout.splitlines()
    assert problem.startswith(f"{path}: sede: unknown key (value 3)")
    assert heavy == "[]"
