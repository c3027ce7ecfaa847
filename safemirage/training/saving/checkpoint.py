"""Checkpoints of a run: one folder each, whole or not there, written beside the training, checked before it is used.

    checkpoints = Checkpoints(folder, layout=..., keep=2)
    checkpoints.begin(step, content)      every worker: starts to write its file, in the background
    checkpoints.commit()                  later: waits for all workers' files, then the folder gets its name
    newest = checkpoints.newest()         None: start from the beginning

A folder gets its name `step-00000500` when all of it is written, and lists the SHA-256 of each of its files. A file that
is not what the list says stops the run with its name; nothing older is taken instead unless the folder is deleted.
"""

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch

from safemirage.config.loading.identity import file_digest
from safemirage.training.job import CheckpointError, StorageError
from safemirage.training.saving.disk import storage_problem, storing
from safemirage.training.workers import (
    on_first_worker,
    problems_of_all,
    rank,
    world_size,
)

LIST_NAME = "files.json"
_UNFINISHED = ".unfinished-"
_SHOWN_PROBLEMS = 5


@dataclass(frozen=True)
class _Write:
    """A checkpoint on its way to the disk."""

    step: int
    scratch: Path
    file: Future[dict[str, Any]]
    """What the list will say of this worker's file."""


class Checkpoints:
    """The checkpoints of one run, in a folder that every worker sees. All calls but `newest` and `read` are collective."""

    def __init__(self, folder: Path, *, layout: Mapping[str, str], keep: int) -> None:
        """Args:
        layout: what a checkpoint only fits: the run's identity and the engine.
        """
        self._folder = folder
        self._layout = dict(layout)
        self._keep = keep
        self._write: _Write | None = None
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")

    def clean(self) -> None:
        """Removes what an earlier attempt left unfinished. Nobody else may be writing."""
        on_first_worker(lambda: _remove(self._folder.glob(f"{_UNFINISHED}*")))

    def newest(self) -> Path | None:
        found = _whole(self._folder)
        return found[-1] if found else None

    @property
    def is_open(self) -> bool:
        """Whether a checkpoint was begun and not committed; the same on every worker."""
        return self._write is not None

    @property
    def is_writing(self) -> bool:
        """Whether this worker's file is not on the disk yet."""
        return self._write is not None and not self._write.file.done()

    def begin(self, step: int, content: Mapping[str, Any], *, num_bytes: int) -> None:
        """Starts to write this worker's part of a checkpoint. Nothing in `content` may change any more.

        Args:
            num_bytes: what all workers together are going to write; asked of the disk first.

        Raises:
            StorageError: there is no room. The checkpoints that were there stay.
        """
        assert self._write is None, "commit comes first"
        # Every worker comes to the same name by itself, so none has to be told where to write.
        scratch = self._folder / f"{_UNFINISHED}{step:08d}"
        # Asked before the first byte: a disk that fills up midway leaves nothing of use.
        self._make_room(scratch, num_bytes)
        file = scratch / worker_file(rank())
        self._write = _Write(step, scratch, self._pool.submit(_save, file, content, self._folder))

    def commit(self) -> Path | None:
        """The checkpoint that was begun last, once all workers have written their files; None where none was begun.

        Raises:
            StorageError: a worker's write failed. What was written is removed; older checkpoints stay.
        """
        if self._write is None:
            return None
        write, self._write = self._write, None
        error = write.file.exception()
        if error is not None and not isinstance(error, StorageError):
            raise error
        # All hear of it and raise alike, so none is left waiting in a collective.
        if problems := problems_of_all([] if error is None else [str(error)]):
            on_first_worker(lambda: _remove([write.scratch]))  # what it took is needed
            raise StorageError(problems[0])
        final = self._folder / f"step-{write.step:08d}"
        with storing(self._folder):
            self._list_files(write)
            # The new one has its name before the oldest goes: at no moment is there less to resume from.
            on_first_worker(lambda: _put_in_place(write.scratch, final))
            on_first_worker(lambda: _remove(_whole(self._folder)[: -self._keep]))
        return final

    def verify(self, checkpoint: Path) -> None:
        """Reads every file, each worker a part of them.

        Raises:
            CheckpointError: a file is missing or is not what was written; or it is another run's.
        """
        listed = _read_list(checkpoint)
        if listed["layout"] != self._layout:
            raise CheckpointError(
                f"{checkpoint}: was made under {listed['layout']}, and this run has {self._layout}; delete the folder, "
                "or start the run as it was"
            )
        # Digests of 90 GB take minutes, so the files are dealt out among the workers.
        names = sorted(listed["files"])[rank() :: world_size()]
        problems = problems_of_all(
            [line for name in names if (line := _problem(checkpoint / name, listed["files"][name]))]
        )
        if problems:
            more = len(problems) - _SHOWN_PROBLEMS
            shown = "; ".join(problems[:_SHOWN_PROBLEMS]) + (f"; {more} more" if more > 0 else "")
            raise CheckpointError(f"{checkpoint}: {shown}. {_after_deletion(checkpoint)}")

    def read(self, checkpoint: Path) -> list[dict[str, Any]]:
        """What each of the workers wrote that made the checkpoint, in the order of their ranks.

        Tensors are mapped from the files: a worker reads only those that it copies.
        """
        names = sorted(_read_list(checkpoint)["files"])
        return [
            torch.load(checkpoint / name, map_location="cpu", weights_only=True, mmap=True)
            for name in names
        ]

    def _make_room(self, scratch: Path, num_bytes: int) -> None:
        # A folder of an attempt that broke off may be in the way.
        if rank() == 0:
            _remove([scratch])
        # Every worker asks and all hear the answers, so that all raise alike.
        found = storage_problem(self._folder, num_bytes)
        if problems := problems_of_all([found] if found is not None else []):
            raise StorageError(problems[0])
        with storing(self._folder):
            on_first_worker(lambda: scratch.mkdir())

    def _list_files(self, write: _Write) -> None:
        mine = {worker_file(rank()): write.file.result()}
        # The exchange of problems carries any lines of text: here one line a worker.
        parts = [json.loads(part) for part in problems_of_all([json.dumps(mine)])]
        files = {name: entry for part in parts for name, entry in part.items()}
        content = {"step": write.step, "layout": self._layout, "files": files}
        text = json.dumps(content, indent=2, sort_keys=True) + "\n"
        on_first_worker(lambda: _write_synced(write.scratch / LIST_NAME, text.encode()))


class _HashingFile:
    """A file that is hashed while it is written: reading 90 GB again for their digest would take as long as writing."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.digest = hashlib.sha256()
        self.num_bytes = 0

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        self.num_bytes += len(data)
        return self._stream.write(data)

    def flush(self) -> None:
        self._stream.flush()


def worker_file(number: int) -> str:
    return f"worker-{number:05d}.pt"


def _save(path: Path, content: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Writes a worker's file; its size and digest."""
    with storing(folder), path.open("wb") as stream:
        file = _HashingFile(stream)
        torch.save(dict(content), file)  # type: ignore[arg-type]
        stream.flush()
        # On the disk before the folder gets its final name, which says that all of it is there.
        os.fsync(stream.fileno())
    return {"sha256": file.digest.hexdigest(), "bytes": file.num_bytes}


def _whole(folder: Path) -> list[Path]:
    """The checkpoints that are whole, the oldest first."""
    return sorted(folder.glob("step-*"))


def _remove(folders: Any) -> None:
    for folder in folders:
        if folder.name.startswith(_UNFINISHED):
            shutil.rmtree(folder, ignore_errors=True)
            continue
        # Under its own name a folder is whole, so it loses the name before its files.
        doomed = folder.with_name(f"{_UNFINISHED}{uuid.uuid4().hex}")
        folder.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)


def _put_in_place(scratch: Path, final: Path) -> None:
    if final.exists():
        _remove([final])
    scratch.rename(final)


def _write_synced(path: Path, data: bytes) -> None:
    with path.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def _read_list(checkpoint: Path) -> dict[str, Any]:
    try:
        listed: dict[str, Any] = json.loads((checkpoint / LIST_NAME).read_text())
    except (OSError, ValueError) as error:
        reason = f"{LIST_NAME} cannot be read ({error})"
        raise CheckpointError(f"{checkpoint}: {reason}. {_after_deletion(checkpoint)}") from error
    return listed


def _problem(file: Path, listed: Mapping[str, Any]) -> str | None:
    if not file.is_file():
        return f"{file.name} is missing"
    # The size first: it costs nothing, and finds most damage.
    if (size := file.stat().st_size) != listed["bytes"]:
        return f"{file.name} has {size:,} bytes and was written with {listed['bytes']:,}"
    if file_digest(file) != listed["sha256"]:
        return f"{file.name} was changed after it was written"
    return None


def _after_deletion(checkpoint: Path) -> str:
    older = [place for place in _whole(checkpoint.parent) if place < checkpoint]
    then = f"from {older[-1].name}" if older else "from the beginning"
    return f"Nothing older is taken unasked: delete {checkpoint} and start the run again, and it resumes {then}"
