"""Writing to disks that fill up: room is asked for before anything is written, and errors say how to resume."""

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from safemirage.training.job import StorageError

_TORCH_WRITER = ("inline_container", "PytorchStreamWriter", "iostream error")
"""What torch.save's errors hold when the file could not be written; it raises them as RuntimeError."""


def storage_problem(folder: Path, num_bytes: int) -> str | None:
    """Why `num_bytes` cannot be written below `folder`, which is made where it is missing; None if they can."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".probe-{uuid.uuid4().hex}"
        probe.write_bytes(b"\0")
        probe.unlink()
    except OSError as error:
        return _described(folder, error)
    free = shutil.disk_usage(folder).free
    if free < num_bytes:
        return f"{folder}: {num_bytes:,} bytes are to be written and {free:,} are free; {_way_out(folder)}"
    return None


@contextmanager
def storing(folder: Path) -> Iterator[None]:
    """Turns the errors of writing below `folder` into one that names it, the room left and the way out.

    Raises:
        StorageError: the system refused a write.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise StorageError(_described(folder, error)) from error
    except RuntimeError as error:
        if not any(mark in str(error) for mark in _TORCH_WRITER):
            raise
        raise StorageError(_described(folder, error)) from error


def _described(folder: Path, error: Exception) -> str:
    reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
    there = next(place for place in (folder, *folder.parents) if place.exists())
    free = shutil.disk_usage(there).free
    return f"{folder}: cannot be written ({reason}); {free:,} bytes are free; {_way_out(folder)}"


def _way_out(folder: Path) -> str:
    return (
        f"make room on the disk of {folder}, or make it writable, and start the run again: it resumes from its last "
        "checkpoint. checkpoint.keep=1 keeps fewer of them"
    )
