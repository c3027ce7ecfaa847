"""Checkpoints of a run: one folder each, whole or not there, checked before it is used.

    checkpoints = Checkpoints(folder, layout=..., keep=2)
    checkpoints.write(step, num_bytes=engine.checkpoint_bytes(), write=...)    all workers, into one folder
    newest = checkpoints.newest()                                              None: start from the beginning

A folder gets its name `step-00000500` when all of it is written, and lists the SHA-256 of each of its files. A file that
is not what the list says stops the run with its name; nothing older is taken instead unless the folder is deleted.
"""

import json
import os
import shutil
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safemirage.config.loading.identity import file_digest
from safemirage.training.job import CheckpointError, StorageError
from safemirage.training.saving.disk import storage_problem, storing
from safemirage.training.workers import (
    barrier,
    on_first_worker,
    problems_of_all,
    rank,
    world_size,
)

LIST_NAME = "files.json"
_UNFINISHED = ".unfinished-"
_SHOWN_PROBLEMS = 5


class Checkpoints:
    """The checkpoints of one run, in a folder that every worker sees. All calls but `newest` are collective."""

    def __init__(self, folder: Path, *, layout: Mapping[str, str], keep: int) -> None:
        """Args:
        layout: what a checkpoint only fits: the run's identity, the engine; the number of workers is added.
        """
        self._folder = folder
        self._layout = {**layout, "workers": str(world_size())}
        self._keep = keep

    def clean(self) -> None:
        """Removes what an earlier attempt left unfinished. Nobody else may be writing."""
        on_first_worker(lambda: _remove(self._folder.glob(f"{_UNFINISHED}*")))

    def newest(self) -> Path | None:
        found = _whole(self._folder)
        return found[-1] if found else None

    def write(self, step: int, *, num_bytes: int, write: Callable[[Path], None]) -> Path:
        """The new checkpoint, after `write` has put this worker's files into the folder that it is given.

        Args:
            num_bytes: what all workers together are going to write; asked of the disk first.

        Raises:
            StorageError: there is no room, or a write failed. The checkpoints that were there stay.
            OSError: a write failed on this one of several workers; the others may wait for it and must be ended.
        """
        # Every worker comes to the same name by itself, so none has to be told where to write.
        scratch = self._folder / f"{_UNFINISHED}{step:08d}"
        final = self._folder / f"step-{step:08d}"
        # Asked before the first byte: a disk that fills up midway leaves nothing of use.
        self._make_room(scratch, num_bytes)
        self._fill(scratch, write)
        barrier()
        with storing(self._folder):
            # The list covers all workers' files, so all must have been written: hence the barrier.
            self._list_files(scratch, step)
            # The new one has its name before the oldest goes: at no moment is there less to resume from.
            on_first_worker(lambda: _put_in_place(scratch, final))
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

    def _fill(self, scratch: Path, write: Callable[[Path], None]) -> None:
        try:
            with storing(self._folder):
                write(scratch)
        except StorageError as error:
            _remove([scratch])  # what it took is needed
            # The others wait in a collective for this worker: only an error that ends its process sets them free.
            if world_size() > 1:
                raise OSError(str(error)) from error
            raise

    def _list_files(self, scratch: Path, step: int) -> None:
        names = sorted(
            item.relative_to(scratch).as_posix() for item in scratch.rglob("*") if item.is_file()
        )
        mine = {
            name: {
                "sha256": file_digest(scratch / name),
                "bytes": (scratch / name).stat().st_size,
            }
            for name in names[rank() :: world_size()]
        }
        # The exchange of problems carries any lines of text: here one line a worker.
        parts = [json.loads(part) for part in problems_of_all([json.dumps(mine)])]
        files = {name: entry for part in parts for name, entry in part.items()}
        content = {"step": step, "layout": self._layout, "files": files}
        on_first_worker(
            lambda: _write_text(scratch / LIST_NAME, json.dumps(content, indent=2, sort_keys=True))
        )


def layout_of_newest(folder: Path) -> dict[str, str] | None:
    """What made the newest checkpoint: identity, engine, number of workers. None where there is none.

    Raises:
        CheckpointError: it cannot be read.
    """
    found = _whole(folder)
    return dict(_read_list(found[-1])["layout"]) if found else None


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


def _write_text(path: Path, text: str) -> None:
    with path.open("w") as stream:
        stream.write(text + "\n")
        # On the disk before the folder gets its final name, which says that all of it is there.
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
