"""What a run finds again after it was killed, its disk was full, or its checkpoints were damaged."""

import json
import os
import resource
import shutil
import subprocess
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from safemirage.config.loading.identity import file_digest
from safemirage.config.train import TrainConfig
from safemirage.training.job import CheckpointError, Report, StepMetrics, StorageError, TrainJob
from safemirage.training.loop import train
from safemirage.training.saving.checkpoint import LIST_NAME, Checkpoints
from safemirage.training.saving.pieces import Piece, copy_pieces, fill_pieces
from safemirage.training.saving.saver import RunState, Saver
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
    assert listed["layout"] == {"identity": "0", "engine": "torch"}
    assert sorted(listed["files"]) == ["worker-00000.pt"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda file: os.truncate(file, 1000),
            r"worker-00000\.pt has 1,000 bytes and was written with",
        ),
        (lambda file: flip_a_byte(file), r"worker-00000\.pt was changed after it was written"),
        (lambda file: file.unlink(), r"worker-00000\.pt is missing"),
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
    damage(checkpoints / "step-00000004" / "worker-00000.pt")
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


def test_checkpoint_of_another_run_or_engine_is_refused(
    tree: dict[str, Any], tmp_path: Path, checkpoints: Path
) -> None:
    with pytest.raises(CheckpointError, match=r"made under \{.*'identity': '0'.*this run has"):
        run(tiny_train_config(tree), tmp_path, identity="1")
    other = Checkpoints(checkpoints, layout={"identity": "0", "engine": "deepspeed"}, keep=2)
    with pytest.raises(CheckpointError, match=r"'engine': 'torch'.*this run has.*deepspeed"):
        other.verify(checkpoints / "step-00000004")


def test_checkpoints_keep_the_newest_and_clear_what_was_left_unfinished(tmp_path: Path) -> None:
    (tmp_path / ".unfinished-00000007").mkdir()
    found = Checkpoints(tmp_path, layout={}, keep=2)
    assert found.newest() is None
    found.clean()
    assert list(tmp_path.iterdir()) == []
    for step in (1, 2, 10):
        found.begin(step, {"a": step}, num_bytes=1)
        assert found.is_open
        assert found.commit() == tmp_path / f"step-{step:08d}"
    assert found.commit() is None
    assert found.newest() == tmp_path / "step-00000010"
    assert [part["a"] for part in found.read(tmp_path / "step-00000010")] == [10]
    assert sorted(place.name for place in tmp_path.iterdir()) == ["step-00000002", "step-00000010"]


def test_checkpoint_takes_up_the_pieces_of_any_number_of_workers() -> None:
    """Three workers' pieces of two parameters, cut where no parameter ends, are two workers' afterwards."""
    weights = {"a": torch.arange(7.0), "b": 10 + torch.arange(5.0)}
    flat = torch.cat(list(weights.values()))
    bounds = {"a": (0, 7), "b": (7, 12)}

    def pieces(held: Tensor, first: int, last: int) -> list[Piece]:
        """Of a worker that holds places `first` to `last`."""
        found = []
        for name, (begin, end) in bounds.items():
            start, stop = max(begin, first), min(end, last)
            if start < stop:
                found.append(Piece(name, start - begin, held, start - first, stop - start))
        return found

    saved = []
    for first in (0, 4, 8):
        held = flat[first : first + 4].clone()
        state = {held: {"exp_avg": held + 100, "exp_avg_sq": held + 200, "step": 3}}
        saved.append(copy_pieces(pieces(held, first, first + 4), state))
    for first in (0, 6):
        held = torch.zeros(6)
        states: dict[Tensor, Any] = defaultdict(dict)
        fill_pieces(pieces(held, first, first + 6), states, saved, step_is_tensor=False)
        expected = flat[first : first + 6]
        assert held.equal(expected)
        assert states[held]["exp_avg"].equal(expected + 100)
        assert states[held]["exp_avg_sq"].equal(expected + 200)
        assert states[held]["step"] == 3
    with pytest.raises(
        CheckpointError, match=r"b: 5 numbers from 0 on are needed and 1 were saved"
    ):
        fill_pieces(
            pieces(torch.zeros(12), 0, 12), defaultdict(dict), saved[:2], step_is_tensor=False
        )


def test_checkpoint_content_is_hashed_while_it_is_written(checkpoints: Path) -> None:
    listed = json.loads((checkpoints / "step-00000004" / LIST_NAME).read_text())["files"]
    for name, entry in listed.items():
        file = checkpoints / "step-00000004" / name
        assert entry == {"sha256": file_digest(file), "bytes": file.stat().st_size}


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_checkpoints_by_time_are_due_when_it_has_passed_and_too_slow_ones_say_so_once(
    tree: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()

    class SlowEngine:
        device = torch.device("cpu")

        def copy_state(self) -> dict[str, Any]:
            clock.now += 20
            return {"pieces": {}}

    config = tiny_train_config(tree, checkpoint={"every_steps": None, "every": "1.5m"})
    job = TrainJob(
        config=config,
        run_id="a",
        identity="0",
        export=tmp_path / "export",
        cache=tmp_path,
        checkpoints=tmp_path / "checkpoints",
    )
    saver = Saver(job, engine=SlowEngine(), clock=clock)  # type: ignore[arg-type]
    for step in (1, 2):
        clock.now += 89
        assert not saver.is_due
        clock.now += 1
        assert saver.is_due
        saver.save(RunState(step=step, method={}, history=[]))
        assert not saver.is_due
    assert saver.collect() == tmp_path / "checkpoints" / "step-00000002"
    assert [r.getMessage() for r in caplog.records if "stood still" in r.getMessage()] == [
        "checkpoints: the training stood still for 18.2 % of its time (20 s of 110 s) while they were copied and written; "
        "write fewer (checkpoint.every, checkpoint.every_steps), or onto a faster disk"
    ]


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


@pytest.fixture(scope="module")
def killed(
    tree: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[StepMetrics]]:
    """What SIGKILL leaves of two workers under ZeRO-2 in the middle of a background write, and the losses of two that
    nobody disturbs."""
    folder = tmp_path_factory.mktemp("groups")
    (quiet,) = run_group([shared(tree)], world=2, folder=folder / "quiet")
    workers = start_group([shared(tree)], world=2, folder=folder / "killed", hold_writes_of=4)
    try:
        # The steps go on while the fourth's checkpoint is being written.
        while count_steps(folder / "killed") < 5:
            assert all(worker.poll() is None for worker in workers)
            time.sleep(0.05)
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    left = sorted(place.name for place in (folder / "killed" / "0" / "checkpoints").iterdir())
    assert left == [".unfinished-00000004", "step-00000002"]
    return folder / "killed", quiet


def shared(tree: dict[str, Any], *, world: int = 2, stage: int = 2) -> TrainConfig:
    return tiny_train_config(
        tree,
        method=RMU,
        # Small steps: a run that moves fast magnifies the rounding of its sums.
        optim={"steps": 8, "learning_rate": 2e-5},
        engine={"name": "deepspeed", "stage": stage},
        workers={"count": world},
    )


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("world", "stage"),
    [(2, 2), (1, 2), (4, 2), (2, 3)],
    ids=["as-it-was", "2-to-1-workers", "2-to-4-workers", "stage-2-to-3"],
)
def test_group_killed_while_it_writes_resumes_with_the_losses_of_an_undisturbed_one(
    tree: dict[str, Any],
    tmp_path: Path,
    killed: tuple[Path, list[StepMetrics]],
    world: int,
    stage: int,
) -> None:
    left, quiet = killed
    shutil.copytree(left, tmp_path / "resumed")
    config = shared(tree, world=world, stage=stage)
    (steps,) = run_group([config], world=world, folder=tmp_path / "resumed")
    assert (tmp_path / "resumed" / "0" / "resumed_from").read_text() == "2"
    for one, expected in zip(losses(steps), losses(quiet), strict=True):
        exact = (world, stage) == (2, 2)
        assert one == (expected if exact else pytest.approx(expected, rel=1e-5))


def count_steps(folder: Path) -> int:
    file = folder / "0" / "steps.jsonl"
    return len(read_steps(folder / "0")) if file.exists() else 0
