"""What makes two runs the same run."""

from dataclasses import replace
from pathlib import Path

import pytest

from safemirage.config.loading.identity import canonical_json, input_digest, run_identity
from safemirage.config.loading.load import ConfigError, build_config, to_tree
from safemirage.config.train import TrainConfig


@pytest.fixture
def config(tmp_path: Path) -> TrainConfig:
    for name in ("retain.json", "forget.json", "images/a.png", "model/config.json"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(name)
    return build_config(
        TrainConfig,
        {
            "model": {"path": str(tmp_path / "model")},
            "data": {
                "retain": str(tmp_path / "retain.json"),
                "forget": str(tmp_path / "forget.json"),
                "image_folder": str(tmp_path / "images"),
            },
            "method": {"name": "npo"},
            "optim": {"learning_rate": 1.0, "steps": 3},
        },
    )


def test_identity_of_equal_configs_is_equal(config: TrainConfig) -> None:
    assert run_identity(config) == run_identity(replace(config))
    assert len(run_identity(config)) == 64


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "other"},
        {"workers": {"count": 2}},
        {"checkpoint": {"every_steps": 1}},
        {"tracking": {"experiment": "x"}},
    ],
)
def test_identity_leaves_out_what_cannot_change_the_result(
    config: TrainConfig, changes: dict[str, object]
) -> None:
    other = build_config(TrainConfig, to_tree(config) | changes)
    assert other != config
    assert run_identity(other) == run_identity(config)


def test_identity_takes_in_what_can_change_the_result(config: TrainConfig) -> None:
    others = [
        replace(config, seed=1),
        replace(config, optim=replace(config.optim, learning_rate=2.0)),
        replace(config, method=replace(config.method, beta=0.2)),
    ]
    assert len({run_identity(item) for item in [config, *others]}) == 4


@pytest.mark.parametrize(
    "name", ["retain.json", "forget.json", "images/a.png", "model/config.json"]
)
def test_identity_changes_with_one_byte_of_an_input(
    config: TrainConfig, tmp_path: Path, name: str
) -> None:
    before = run_identity(config)
    path = tmp_path / name
    path.write_text(path.read_text() + ".")
    assert run_identity(config) != before


def test_identity_stays_when_inputs_move(config: TrainConfig, tmp_path: Path) -> None:
    before = run_identity(config)
    (tmp_path / "retain.json").rename(tmp_path / "moved.json")
    moved = replace(config, data=replace(config.data, retain=str(tmp_path / "moved.json")))
    assert run_identity(moved) == before


def test_identity_changes_when_a_file_in_a_folder_is_renamed(
    config: TrainConfig, tmp_path: Path
) -> None:
    before = run_identity(config)
    (tmp_path / "images" / "a.png").rename(tmp_path / "images" / "b.png")
    assert run_identity(config) != before


def test_identity_stays_when_an_adapter_is_merged_beside_itself(
    config: TrainConfig, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    (model / "adapter_config.json").write_text("{}")
    before = run_identity(config)
    (model / "merged").mkdir()
    (model / "merged" / "config.json").write_text("{}")
    assert run_identity(config) == before
    (model / "adapter_config.json").write_text("{ }")
    assert run_identity(config) != before


def test_identity_of_hub_weights_is_their_id_and_revision(config: TrainConfig) -> None:
    hub = replace(config, model=replace(config.model, path="owner/name"))
    other = replace(hub, model=replace(hub.model, revision="abc"))
    assert run_identity(hub) != run_identity(other)
    assert input_digest("owner/name", "abc") == "hub:owner/name@abc"


@pytest.mark.parametrize("path", ["./none", "none.json", "a/b/c", "~/none", "data/none.json"])
def test_identity_of_weights_that_are_not_there_is_refused(path: str) -> None:
    with pytest.raises(ConfigError, match="no such file or folder"):
        input_digest(path, "main")


def test_identity_of_data_is_never_a_hub_id(config: TrainConfig) -> None:
    lost = replace(config, data=replace(config.data, image_folder="data/images"))
    with pytest.raises(ConfigError, match="data/images: no such file or folder"):
        run_identity(lost)


def test_canonical_json_does_not_depend_on_key_order_and_has_no_nan() -> None:
    assert canonical_json({"b": 1, "a": "\u00e9"}) == '{"a":"\\u00e9","b":1}'
    with pytest.raises(ValueError, match="Out of range"):
        canonical_json(float("nan"))
