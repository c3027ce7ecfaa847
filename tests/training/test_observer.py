"""A look at what the model says while it trains: found, named, and without influence on what is learned."""

import json
from pathlib import Path
from typing import Any

import pytest

from safemirage.training.job import Report, TrainingCollapsed, TrainJob
from safemirage.training.loop import train
from tests.tiny_run import make_tiny_run, tiny_train_config, train_tiny
from tests.training.group import run_group

SHARE = "collapse/degenerate_share"
LOOK = {"every_steps": 10, "samples": 4, "new_tokens": 48}
SFT = {"name": "sft"}


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A run that starts from a model whose answers make sense."""
    folder = tmp_path_factory.mktemp("sound")
    tree = make_tiny_run(folder / "tiny")
    optim = {"steps": 40, "learning_rate": 5e-3}
    train_tiny(tree, folder, method=SFT, optim=optim, collapse={"action": "off"})
    return {**tree, "model": {"path": str(folder / "export")}}


@pytest.fixture(scope="module")
def looping(sound: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The same with a retain set that teaches to repeat one word."""
    records = json.loads(Path(sound["data"]["retain"]).read_text())
    for record in records:
        record["conversations"][1]["value"] = " ".join(["so"] * 12)
    path = tmp_path_factory.mktemp("looping") / "retain.json"
    path.write_text(json.dumps(records))
    return {
        **sound,
        "method": SFT,
        "data": {**sound["data"], "retain": str(path)},
        "optim": {**sound["optim"], "learning_rate": 5e-3, "steps": 40},
    }


def test_collapse_stops_the_run_and_names_step_share_and_answer(
    looping: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(
        TrainingCollapsed, match=r"step \d0 of 40: .*100 %.*0 % at the start.*so so"
    ):
        train_tiny(looping, tmp_path, collapse=LOOK)
    assert not (tmp_path / "export").exists()


def test_collapse_is_only_reported_where_the_config_says_so(
    looping: dict[str, Any], tmp_path: Path
) -> None:
    steps = train_tiny(looping, tmp_path, collapse={**LOOK, "action": "report"})
    shares = {step["step"]: step[SHARE] for step in steps if SHARE in step}
    assert list(shares) == [10.0, 20.0, 30.0, 40.0]
    assert shares[40.0] == 1.0
    assert (tmp_path / "export" / "manifest.json").is_file()


def test_model_that_never_made_sense_has_not_collapsed(tmp_path: Path) -> None:
    """A model trained from nothing repeats itself at first; only a rise counts."""
    tree = make_tiny_run(tmp_path / "tiny")
    zeros = {"learning_rate": 1e-12, "steps": 10}
    steps = train_tiny(tree, tmp_path, method=SFT, optim=zeros, collapse={**LOOK, "max_rise": 0.0})
    assert steps[-1][SHARE] >= 0.0


def test_looking_changes_nothing_of_what_is_learned(sound: dict[str, Any], tmp_path: Path) -> None:
    optim = {"steps": 10}
    first = train_tiny(sound, tmp_path / "1", optim=optim, collapse=LOOK)
    second = train_tiny(sound, tmp_path / "2", optim=optim, collapse={"action": "off"})
    assert SHARE in first[-1]
    for one, other in zip(first, second, strict=True):
        for name in other.keys() - {"speed/samples_per_s", "memory/rss_mb"}:
            assert one[name] == other[name], name


def test_run_shorter_than_one_look_has_none(sound: dict[str, Any], tmp_path: Path) -> None:
    steps = train_tiny(sound, tmp_path, optim={"steps": 3}, collapse=LOOK)
    assert not any(SHARE in step for step in steps)


def test_resumed_run_remembers_how_it_was_at_the_start(
    looping: dict[str, Any], tmp_path: Path
) -> None:
    """Measured anew after 17 steps of repeating, a start of 100 % would hide that the run has collapsed."""
    late = {**LOOK, "every_steps": 35}
    # The first is told of when the second begins, at step 34, at the latest.
    checkpoints = {"every_steps": 17}

    class Killed(RuntimeError):
        pass

    def kill(report: Report) -> None:
        if report.checkpoint is not None:
            raise Killed

    config = tiny_train_config(looping, collapse=late, checkpoint=checkpoints)
    job = TrainJob(
        config=config,
        run_id="tiny",
        identity="0",
        export=tmp_path / "export",
        cache=tmp_path / "cache",
        checkpoints=tmp_path / "checkpoints",
    )
    with pytest.raises(Killed):
        train(job, report=kill)
    with pytest.raises(TrainingCollapsed, match="0 % at the start"):
        train(job, report=lambda report: None)


def test_snapshots_are_exports_of_the_model_on_its_way(
    sound: dict[str, Any], tmp_path: Path
) -> None:
    evaluation = {
        "model": {"name": "transformers", "path": "snapshot"},
        "suite": "nowhere",
        "judges": [{"name": "keywords"}],
    }
    watch = {"every_steps": 2, "evaluation": evaluation}
    train_tiny(sound, tmp_path, optim={"steps": 6}, watch=watch)
    found = sorted((tmp_path / "snapshots").iterdir())
    assert [folder.name for folder in found] == ["step-00000000", "step-00000002", "step-00000004"]
    digests = {
        json.loads((folder / "manifest.json").read_text())["weights_digest"] for folder in found
    }
    assert len(digests) == 3


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_two_workers_that_share_out_the_weights_see_the_same(
    sound: dict[str, Any], tmp_path: Path
) -> None:
    config = tiny_train_config(
        {**sound, "workers": {"count": 2}},
        engine={"name": "deepspeed", "stage": 3},
        optim={"steps": 10},
        # An odd number: one worker has nothing to ask in the last round.
        collapse={**LOOK, "samples": 3},
    )
    together = run_group([config], world=2, folder=tmp_path / "two")[0]
    alone = train_tiny(sound, tmp_path, optim={"steps": 10}, collapse={**LOOK, "samples": 3})
    assert together[-1][SHARE] == alone[-1][SHARE]
    for one, other in zip(together, alone, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-5)
