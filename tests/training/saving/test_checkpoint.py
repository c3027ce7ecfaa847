"""What a run finds again after it was killed, its disk was full, or its checkpoints were damaged."""

import json
import os
import random
import resource
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from safemirage.config.train import TrainConfig
from safemirage.training.job import CheckpointError, Report, StepMetrics, StorageError, TrainJob
from safemirage.training.loop import train
from safemirage.training.saving.checkpoint import LIST_NAME, Checkpoints
from tests.tiny_run import make_tiny_run, tiny_train_config
from tests.training.group import read_steps, run_group, start_group

RMU = {"name": "rmu", "hook_layer": 1, "steering_coefficient": 2.0}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return make_tiny_run(tmp_path_factory.mktemp("tiny"))


def run(
    config: TrainConfig,
    folder: Path,
    *,
    checkpoints: Path | None = None,
    on_checkpoint: Callable[[Path], None] = lambda _: None,
    identity: str = "0",
) -> tuple[list[StepMetrics], dict[str, Any]]:
    steps: list[StepMetrics] = []

    def report(report: Report) -> None:
        steps.extend(report.steps)
        if report.checkpoint is not None:
            on_checkpoint(report.checkpoint)

    job = TrainJob(
        config=config,
        run_id="tiny",
        identity=identity,
        export=folder / "export",
        cache=folder / "cache",
        checkpoints=checkpoints or folder / "checkpoints",
    )
    return steps, train(job, report=report)


def losses(steps: list[StepMetrics]) -> list[dict[str, float]]:
    return [
        {k: v for k, v in step.items() if not k.startswith(("speed/", "memory/"))} for step in steps
    ]


def assert_same_export(first: Path, second: Path) -> None:
    found = [load_file(folder / "export" / "model.safetensors") for folder in (first, second)]
    assert found[0].keys() == found[1].keys()
    for name, value in found[0].items():
        assert value.equal(found[1][name]), name


@pytest.fixture(scope="module")
def finished(
    tree: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[StepMetrics]]:
    """A whole run of 6 steps, with its checkpoints of steps 2 and 4."""
    folder = tmp_path_factory.mktemp("finished")
    steps, _ = run(tiny_train_config(tree), folder)
    return folder, steps


@pytest.fixture
def checkpoints(finished: tuple[Path, list[StepMetrics]], tmp_path: Path) -> Path:
    folder = tmp_path / "checkpoints"
    shutil.copytree(finished[0] / "checkpoints", folder)
    return folder


def test_checkpoints_list_every_file_with_its_digest(checkpoints: Path) -> None:
    assert [place.name for place in sorted(checkpoints.iterdir())] == [
        "step-00000002",
        "step-00000004",
    ]
    listed = json.loads((checkpoints / "step-00000004" / LIST_NAME).read_text())
    assert listed["step"] == 4
    assert listed["layout"] == {"identity": "0", "engine": "torch", "workers": "1"}
    assert sorted(listed["files"]) == ["engine.pt", "state-rank0.pt"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda file: os.truncate(file, 1000), r"engine\.pt has 1,000 bytes and was written with"),
        (lambda file: flip_a_byte(file), r"engine\.pt was changed after it was written"),
        (lambda file: file.unlink(), r"engine\.pt is missing"),
        (lambda file: file.with_name(LIST_NAME).unlink(), r"files\.json cannot be read"),
    ],
    ids=["truncated", "changed", "missing", "unlisted"],
)
def test_checkpoint_that_is_damaged_stops_the_run_and_is_not_passed_over(
    tree: dict[str, Any],
    tmp_path: Path,
    checkpoints: Path,
    damage: Callable[[Path], None],
    message: str,
) -> None:
    damage(checkpoints / "step-00000004" / "engine.pt")
    with pytest.raises(CheckpointError, match=message) as caught:
        run(tiny_train_config(tree), tmp_path)
    assert "step-00000004 and start the run again, and it resumes from step-00000002" in str(
        caught.value
    )


def flip_a_byte(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def test_checkpoint_deleted_by_hand_makes_the_run_go_on_from_the_one_before(
    tree: dict[str, Any],
    tmp_path: Path,
    checkpoints: Path,
    finished: tuple[Path, list[StepMetrics]],
) -> None:
    shutil.rmtree(checkpoints / "step-00000004")
    steps, summary = run(tiny_train_config(tree), tmp_path)
    assert summary.resumed_from == 2
    assert losses(steps) == losses(finished[1])
    assert_same_export(tmp_path, finished[0])


@pytest.mark.timeout(180)  # starts DeepSpeed
def test_checkpoint_of_another_run_or_layout_is_refused(
    tree: dict[str, Any], tmp_path: Path, checkpoints: Path
) -> None:
    with pytest.raises(CheckpointError, match=r"made under \{.*'identity': '0'.*this run has"):
        run(tiny_train_config(tree), tmp_path, identity="1")
    zero2 = tiny_train_config(tree, engine={"name": "deepspeed", "stage": 2})
    with pytest.raises(
        CheckpointError, match=r"'engine': 'torch'.*this run has.*deepspeed stage 2"
    ):
        run(zero2, tmp_path)


def test_checkpoints_keep_the_newest_and_clear_what_was_left_unfinished(tmp_path: Path) -> None:
    (tmp_path / ".unfinished-00000007").mkdir()
    found = Checkpoints(tmp_path, layout={}, keep=2)
    assert found.newest() is None
    found.clean()
    assert list(tmp_path.iterdir()) == []
    for step in (1, 2, 10):
        found.write(step, num_bytes=1, write=lambda place: void((place / "a").write_text("a")))
    assert found.newest() == tmp_path / "step-00000010"
    assert sorted(place.name for place in tmp_path.iterdir()) == ["step-00000002", "step-00000010"]


def void(_: object) -> None:
    pass


def test_checkpoint_bytes_say_what_is_written(checkpoints: Path, tree: dict[str, Any]) -> None:
    # 3 numbers of 4 bytes a trained parameter: weight and two moments.
    from safemirage.models.loading import load_for_training

    model = load_for_training(tiny_train_config(tree).model).model
    counted = 12 * sum(p.numel() for p in model.parameters() if p.requires_grad)
    written = (checkpoints / "step-00000004" / "engine.pt").stat().st_size
    assert counted < written < 1.2 * counted


@pytest.fixture
def small_files() -> Iterator[Callable[[Path], None]]:
    """Calling it makes every write beyond 100 kB into a file fail, as a full disk does, until the test ends."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(_: Path) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))

    yield limit
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_write_that_fails_names_folder_room_and_way_out_and_keeps_the_last_checkpoint(
    tree: dict[str, Any],
    tmp_path: Path,
    small_files: Callable[[Path], None],
    finished: tuple[Path, list[StepMetrics]],
) -> None:
    with pytest.raises(StorageError) as caught:
        run(tiny_train_config(tree), tmp_path, on_checkpoint=small_files)
    message = str(caught.value)
    assert f"{tmp_path}/checkpoints: cannot be written" in message
    assert "bytes are free" in message
    assert "start the run again" in message
    assert [place.name for place in (tmp_path / "checkpoints").iterdir()] == ["step-00000002"]
    resource.setrlimit(resource.RLIMIT_FSIZE, (-1, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    steps, summary = run(tiny_train_config(tree), tmp_path)
    assert summary.resumed_from == 2
    assert losses(steps) == losses(finished[1])
    assert_same_export(tmp_path, finished[0])


@pytest.fixture
def small_disk(tmp_path: Path, finished: tuple[Path, list[StepMetrics]]) -> Iterator[Path]:
    """A file system on which one checkpoint of the tiny model fits, and two do not."""
    folder = tmp_path / "disk"
    folder.mkdir()
    one = sum(file.stat().st_size for file in (finished[0] / "checkpoints/step-00000002").iterdir())
    command = ["mount", "-t", "tmpfs", "-o", f"size={one * 3 // 2}", "tmpfs", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"needs the right to mount a file system: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_full_disk_stops_the_run_before_a_byte_is_written_and_keeps_the_last_checkpoint(
    tree: dict[str, Any], tmp_path: Path, small_disk: Path
) -> None:
    with pytest.raises(
        StorageError, match=r"bytes are to be written and [\d,]+ are free; make room"
    ):
        run(tiny_train_config(tree), tmp_path, checkpoints=small_disk)
    assert [place.name for place in small_disk.iterdir()] == ["step-00000002"]


def test_storage_that_cannot_be_written_stops_the_run(tree: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(
        StorageError, match=r"file/checkpoints: cannot be written \(Not a directory\)"
    ):
        run(tiny_train_config(tree), tmp_path, checkpoints=tmp_path / "file" / "checkpoints")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_job_of_two_workers_killed_again_and_again_ends_as_if_undisturbed(
    tree: dict[str, Any], tmp_path: Path
) -> None:
    """SIGKILL of all processes at moments that are drawn, in the middle of a step or of a checkpoint."""
    config = tiny_train_config(
        tree,
        method=RMU,
        optim={"steps": 12},
        engine={"name": "deepspeed", "stage": 2},
        workers={"count": 2},
        checkpoint={"every_steps": 1},
    )
    (quiet,) = run_group([config], world=2, folder=tmp_path / "quiet")
    draw = random.Random(0)
    folder = tmp_path / "killed"
    for _ in range(2):
        workers = start_group([config], world=2, folder=folder)
        known = count_steps(folder)
        while count_steps(folder) < known + 3:
            assert all(worker.poll() is None for worker in workers)
            time.sleep(0.01)
        time.sleep(draw.uniform(0, 0.2))
        for worker in workers:
            worker.kill()
        for worker in workers:
            worker.wait()
    assert count_steps(folder) < 12
    run_group([config], world=2, folder=folder)
    assert losses(read_steps(folder / "0")) == losses(quiet)
    assert_same_export(folder / "0", tmp_path / "quiet" / "0")


def count_steps(folder: Path) -> int:
    file = folder / "0" / "steps.jsonl"
    return len(read_steps(folder / "0")) if file.exists() else 0
