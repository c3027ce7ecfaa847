"""Files that callers upload, and batches: many requests in one file, answered into another, resumed by whoever is there.

All of it lies in one folder of the storage that its owner alone can enter: a file's content beside its record, a batch's
record beside the results that are appended line by line. What stands in the results is not asked again.
"""

import asyncio
import json
import logging
import os
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import TypeAdapter

from safemirage.config.serve import EvaluationsConfig
from safemirage.config.types import Strict
from safemirage.files import write_bytes, write_text
from safemirage.store import LeaseLost, Store
from safemirage.store.tokens import Scope

_log = logging.getLogger(__name__)
Status = Literal["validating", "in_progress", "completed", "failed", "cancelling", "cancelled"]
ENDED: frozenset[Status] = frozenset({"completed", "failed", "cancelled"})
ENDPOINTS = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/judgements",
    "/v1/moderations",
)
"""What the lines of a batch may ask for."""


@dataclass(frozen=True, kw_only=True)
class StoredFile(Strict):
    """A file that a caller uploaded, or that a batch wrote."""

    id: str
    filename: str
    purpose: Literal["batch", "batch_output"]
    bytes: int
    created_at: int
    owner: str
    unredacted: bool = False
    """Whether it may hold what models say to unsafe questions."""


@dataclass(frozen=True, kw_only=True)
class Batch(Strict):
    id: str
    endpoint: str
    input_file_id: str
    owner: str
    scopes: tuple[Scope, ...]
    """What the owner might do when it was started; its requests may not do more."""
    created_at: int
    status: Status = "validating"
    output_file_id: str | None = None
    error_file_id: str | None = None
    total: int = 0
    completed: int = 0
    failed: int = 0
    in_progress_at: int | None = None
    ended_at: int | None = None
    problem: str | None = None
    metadata: dict[str, str] | None = None


@dataclass(frozen=True, kw_only=True)
class Line:
    """A request of a batch."""

    custom_id: str
    body: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Answered:
    status: int
    body: dict[str, Any]


Answer = Callable[[Batch, Line], Awaitable[Answered]]
RecordT = TypeVar("RecordT", StoredFile, Batch)


class Files:
    """The folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def put(self, record: StoredFile, data: bytes) -> StoredFile:
        self._make()
        write_bytes(self.path(record.id), data)
        return self._write(record)

    def path(self, file_id: str) -> Path:
        """Where a file's content lies."""
        return self._folder / f"{_safe(file_id)}.jsonl"

    def get(self, file_id: str) -> StoredFile | None:
        return self._read(StoredFile, file_id)

    def stored(self) -> Sequence[StoredFile]:
        """Newest first."""
        return self._all(StoredFile, "file-*.json")

    def register(self, record: StoredFile) -> StoredFile:
        """Makes a file known whose content lies here already."""
        return self._write(record)

    def delete(self, file_id: str) -> None:
        self._record(file_id).unlink(missing_ok=True)
        self.path(file_id).unlink(missing_ok=True)

    def size(self) -> int:
        """Bytes of all contents."""
        return sum(path.stat().st_size for path in self._folder.glob("*.jsonl"))

    def put_batch(self, batch: Batch) -> Batch:
        self._make()
        return self._write(batch)

    def batch(self, batch_id: str) -> Batch | None:
        found = self._read(Batch, batch_id)
        # A marker of its own, because the runner writes the record.
        if found is not None and found.status not in ENDED and self._marker(batch_id).exists():
            return replace(found, status="cancelling")
        return found

    def batches(self) -> Sequence[Batch]:
        """Newest first."""
        found = (self.batch(one.id) for one in self._all(Batch, "batch_*.json"))
        return [one for one in found if one is not None]

    def cancel(self, batch_id: str) -> None:
        self._marker(batch_id).touch()

    def _all(self, kind: type[RecordT], pattern: str) -> list[RecordT]:
        found = (self._read(kind, path.stem) for path in self._folder.glob(pattern))
        return sorted(
            (one for one in found if one is not None),
            key=lambda one: (one.created_at, one.id),
            reverse=True,
        )

    def _read(self, kind: type[RecordT], name: str) -> RecordT | None:
        try:
            data = self._record(name).read_bytes()
        except (FileNotFoundError, ValueError):
            return None
        return TypeAdapter(kind).validate_json(data)

    def _write(self, record: RecordT) -> RecordT:
        kind = type(record)
        write_text(self._record(record.id), TypeAdapter(kind).dump_json(record).decode())
        return record

    def _record(self, name: str) -> Path:
        return self._folder / f"{_safe(name)}.json"

    def _marker(self, batch_id: str) -> Path:
        return self._folder / f"{_safe(batch_id)}.cancel"

    def _make(self) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)


def new_file(name: str, data: bytes, owner: str) -> StoredFile:
    return StoredFile(
        id=f"file-{uuid.uuid4().hex}",
        filename=name,
        purpose="batch",
        bytes=len(data),
        created_at=int(time.time()),
        owner=owner,
    )


def read_lines(data: bytes, endpoint: str, most: int) -> list[Line]:
    """The requests of a batch.

    Raises:
        ValueError: names the first line that is none, or says that there are more than `most`.
    """
    found: dict[str, Line] = {}
    for number, text in enumerate(data.splitlines(), start=1):
        if not text.strip():
            continue
        try:
            tree = json.loads(text)
            name, body = tree["custom_id"], tree["body"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ValueError(
                f"line {number}: no request with custom_id and body: {error!r}"
            ) from error
        if not isinstance(name, str) or not isinstance(body, dict) or name in found:
            raise ValueError(f"line {number}: custom_id must be a text of its own, body a mapping")
        if tree.get("method", "POST") != "POST" or tree.get("url", endpoint) != endpoint:
            raise ValueError(f"line {number}: this batch asks POST {endpoint} only")
        found[name] = Line(custom_id=name, body=body)
        if len(found) > most:
            raise ValueError(f"more than {most} requests; send several batches")
    if not found:
        raise ValueError("the file holds no request")
    return list(found.values())


class BatchRunner:
    """Answers what waits, oldest first. The store's leases let one process at a time have a batch."""

    def __init__(
        self,
        files: Files,
        store: Store,
        answer: Answer,
        *,
        config: EvaluationsConfig,
        most: int,
    ) -> None:
        self._files = files
        self._store = store
        self._answer = answer
        self._config = config
        self._most = most

    async def run(self) -> None:
        """Runs until it is cancelled. A batch that goes wrong is recorded as failed and does not end the others."""
        while True:
            waiting = await asyncio.to_thread(self._files.batches)
            for batch in reversed(waiting):
                if batch.status not in ENDED:
                    await self._take(batch)
            await asyncio.sleep(self._config.poll_s)

    async def _take(self, batch: Batch) -> None:
        lease = await asyncio.to_thread(
            self._store.leases.acquire, f"batch:{batch.id}", ttl_s=self._config.takeover_s
        )
        if lease is None:
            return
        lease.start()
        try:
            await _Work(self._files, batch, self._answer, self._config.poll_s).run(
                self._config.batch, self._most
            )
        except LeaseLost:
            _log.warning("batch %s: another process took it over", batch.id)
        except Exception as error:
            _log.exception("batch %s failed", batch.id)
            self._files.put_batch(
                replace(
                    batch,
                    status="failed",
                    ended_at=int(time.time()),
                    problem=f"{type(error).__name__}",
                )
            )
        finally:
            await asyncio.to_thread(lease.release)


class _Work:
    """A batch while this process has it."""

    def __init__(self, files: Files, batch: Batch, answer: Answer, poll_s: float) -> None:
        self._files = files
        self._batch = batch
        self._answer = answer
        self._poll_s = poll_s
        self._good = files.path(f"file-{batch.id}-output")
        self._bad = files.path(f"file-{batch.id}-errors")

    async def run(self, at_a_time: int, most: int) -> None:
        try:
            data = self._files.path(self._batch.input_file_id).read_bytes()
            lines = await asyncio.to_thread(read_lines, data, self._batch.endpoint, most)
        except (OSError, ValueError) as error:
            said = str(error) if isinstance(error, ValueError) else "the input file is gone"
            self._end("failed", problem=said)
            return
        good, bad = _answered(self._good), _answered(self._bad)
        self._put(
            status="in_progress",
            total=len(lines),
            completed=len(good),
            failed=len(bad),
            in_progress_at=self._batch.in_progress_at or int(time.time()),
        )
        open_lines = [line for line in lines if line.custom_id not in good | bad]
        turns = asyncio.Semaphore(at_a_time)
        tasks = {asyncio.create_task(self._one(line, turns)) for line in open_lines}
        try:
            while tasks:
                done, tasks = await asyncio.wait(tasks, timeout=self._poll_s)
                for task in done:
                    task.result()
                now = self._files.batch(self._batch.id)
                if now is None or now.status == "cancelling":
                    self._end("cancelled")
                    return
                self._put()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        self._end("completed")

    async def _one(self, line: Line, turns: asyncio.Semaphore) -> None:
        async with turns:
            answered = await self._answer(self._batch, line)
        is_good = answered.status < 400
        entry = {
            "id": f"batch_req_{uuid.uuid4().hex}",
            "custom_id": line.custom_id,
            "response": {
                "status_code": answered.status,
                "request_id": f"req_{uuid.uuid4().hex}",
                "body": answered.body,
            },
            "error": None,
        }
        _append(self._good if is_good else self._bad, json.dumps(entry, ensure_ascii=False))
        self._batch = replace(
            self._batch,
            completed=self._batch.completed + is_good,
            failed=self._batch.failed + (not is_good),
        )

    def _put(self, **changes: Any) -> None:
        self._batch = self._files.put_batch(replace(self._batch, **changes))

    def _end(self, status: Status, problem: str | None = None) -> None:
        written = {
            "output_file_id": self._register(self._good),
            "error_file_id": self._register(self._bad),
        }
        self._put(status=status, problem=problem, ended_at=int(time.time()), **written)

    def _register(self, path: Path) -> str | None:
        """The id of a file of results; None where there is none."""
        if not path.exists():
            return None
        return self._files.register(
            StoredFile(
                id=path.stem,
                filename=path.name,
                purpose="batch_output",
                bytes=path.stat().st_size,
                created_at=int(time.time()),
                owner=self._batch.owner,
                unredacted="unredacted" in self._batch.scopes,
            )
        ).id


def _append(path: Path, line: str) -> None:
    with path.open("ab") as stream:
        stream.write(f"{line}\n".encode())
        stream.flush()
        os.fsync(stream.fileno())


def _answered(path: Path) -> set[str]:
    """What a file of results holds already; half a line, of a process that died while it wrote, is cut off."""
    if not path.exists():
        return set()
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) < len(data):
        os.truncate(path, len(whole))
    return {json.loads(line)["custom_id"] for line in whole.splitlines()}


def _safe(name: str) -> str:
    """Raises ValueError for a name that would lead out of the folder."""
    if not name.replace("-", "").replace("_", "").isalnum() or not name.isascii():
        raise ValueError(f"{name!r} is no id")
    return name
