"""/v1/files and /v1/batches: OpenAI's batches. Requests go up as JSONL, answers come down as JSONL."""

import asyncio
import json
import time
import uuid
from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeVar

from fastapi import APIRouter, Depends, Form, Query, Request, Response, UploadFile
from fastapi.responses import FileResponse
from pydantic import Field
from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt, wait_exponential

from safemirage.config.serve import LimitsConfig
from safemirage.store.tokens import SCOPES
from serve_app.audit import Audit
from serve_app.batches import (
    ENDED,
    ENDPOINTS,
    Answered,
    Batch,
    Files,
    Line,
    StoredFile,
    new_file,
    read_lines,
)
from serve_app.http.admission import Admission
from serve_app.http.auth import Caller, caller_of, needs
from serve_app.http.bodies import BodyT, parse, receive_json, takes
from serve_app.http.desk import Desk
from serve_app.http.errors import ApiError, error_of
from serve_app.http.openai import ChatBody, CompletionBody, ModerationBody, ResponsesBody
from serve_app.http.routes.chat import chat, completion
from serve_app.http.routes.judgements import judgements, moderations
from serve_app.http.routes.responses import read_response, respond_whole
from serve_app.http.schemas import Body, JudgementsBody
from serve_app.service import Service

Limit = Annotated[int, Query(ge=1, le=10_000)]
_WINDOW_S = 24 * 3600
_ATTEMPTS = 8
"""Of one line, where the model cannot be had just now: two minutes in all."""
StreamedT = TypeVar("StreamedT", ChatBody, CompletionBody, ResponsesBody)


class BatchBody(Body):
    """What starts a batch."""

    input_file_id: str
    """The id of an uploaded file."""
    endpoint: str
    """What every line of it asks for, such as /v1/chat/completions or /v1/judgements."""
    completion_window: Literal["24h"] = "24h"
    """Taken for OpenAI's clients; a batch runs until it is done."""
    metadata: Annotated[dict[str, str], Field(max_length=16)] | None = None
    """Texts that are shown with the batch."""


def batch_routes(files: Files, admission: Admission, audit: Audit) -> APIRouter:
    router = APIRouter(tags=["batches"], dependencies=[Depends(needs("evaluate"))])
    _add_files(router, files, admission.limits, audit)
    _add_batches(router, files, admission)
    return router


def _add_files(router: APIRouter, files: Files, limits: LimitsConfig, audit: Audit) -> None:
    @router.post("/v1/files")
    async def upload(
        http: Request, file: UploadFile, purpose: Annotated[str, Form()]
    ) -> dict[str, Any]:
        """Takes a file of requests, a JSON object a line."""
        if purpose != "batch":
            raise ApiError(
                400,
                f"Unsupported value: 'purpose' {purpose!r}; files are taken for 'batch'.",
                param="purpose",
                code="unsupported_value",
            )
        data = await file.read()
        if await asyncio.to_thread(files.size) + len(data) > limits.stored_bytes:
            raise ApiError(
                413,
                f"the files of all callers fill {limits.stored_bytes} bytes (limits.stored_bytes); delete some",
                param="file",
            )
        record = new_file((file.filename or "batch.jsonl")[:255], data, caller_of(http).name)
        return _file(await asyncio.to_thread(files.put, record, data))

    @router.get("/v1/files")
    async def listing(http: Request, limit: Limit = 100) -> dict[str, Any]:
        """One's own files, newest first."""
        caller = caller_of(http)
        found = [one for one in await asyncio.to_thread(files.stored) if caller.owns(one.owner)]
        return _page([_file(one) for one in found], limit)

    @router.get("/v1/files/{file_id}")
    async def look(http: Request, file_id: str) -> dict[str, Any]:
        return _file(_own_file(files, file_id, caller_of(http)))

    @router.get("/v1/files/{file_id}/content", response_class=FileResponse)
    async def content(http: Request, file_id: str) -> Response:
        """The file itself. Results of a batch that might see unredacted answers need that scope again."""
        caller = caller_of(http)
        found = _own_file(files, file_id, caller)
        if found.unredacted:
            caller.require("unredacted")
            audit.write("unredacted", caller.name, door="files", file=file_id)
        elif found.owner != caller.name:
            audit.write("admin", caller.name, door="files", file=file_id)
        return FileResponse(files.path(file_id), media_type="application/jsonl")

    @router.delete("/v1/files/{file_id}")
    async def delete(http: Request, file_id: str) -> dict[str, Any]:
        found = _own_file(files, file_id, caller_of(http))
        await asyncio.to_thread(files.delete, found.id)
        return {"id": found.id, "object": "file", "deleted": True}


def _add_batches(router: APIRouter, files: Files, admission: Admission) -> None:
    limits = admission.limits

    @router.post("/v1/batches", response_model=None, openapi_extra=takes(BatchBody))
    async def start(http: Request) -> dict[str, Any]:
        """Starts a batch. Its requests may do what this token may."""
        data = await receive_json(http, admission, "evaluate")
        body = await parse(data, BatchBody, limits, status=400)
        caller = caller_of(http)
        if body.endpoint not in ENDPOINTS:
            raise ApiError(
                400,
                f"Invalid value: 'endpoint' {body.endpoint!r}; supported are {', '.join(ENDPOINTS)}.",
                param="endpoint",
                code="invalid_value",
            )
        found = _own_file(files, body.input_file_id, caller)
        try:
            lines = await asyncio.to_thread(
                lambda: read_lines(files.path(found.id).read_bytes(), body.endpoint, limits.samples)
            )
        except ValueError as error:
            raise ApiError(400, str(error), param="input_file_id", code="invalid_value") from error
        batch = Batch(
            id=f"batch_{uuid.uuid4().hex}",
            endpoint=body.endpoint,
            input_file_id=found.id,
            owner=caller.name,
            scopes=tuple(one for one in SCOPES if caller.may(one)),
            created_at=int(time.time()),
            total=len(lines),
            metadata=body.metadata,
        )
        return _batch(await asyncio.to_thread(files.put_batch, batch))

    @router.get("/v1/batches")
    async def listing(http: Request, limit: Limit = 20) -> dict[str, Any]:
        """One's own batches, newest first."""
        caller = caller_of(http)
        found = [one for one in await asyncio.to_thread(files.batches) if caller.owns(one.owner)]
        return _page([_batch(one) for one in found], limit)

    @router.get("/v1/batches/{batch_id}")
    async def look(http: Request, batch_id: str) -> dict[str, Any]:
        return _batch(_own_batch(files, batch_id, caller_of(http)))

    @router.post("/v1/batches/{batch_id}/cancel")
    async def cancel(http: Request, batch_id: str) -> dict[str, Any]:
        """Ends a batch; what it has answered is kept."""
        batch = _own_batch(files, batch_id, caller_of(http))
        if batch.status not in ENDED:
            await asyncio.to_thread(files.cancel, batch.id)
        return _batch(_own_batch(files, batch_id, caller_of(http)))


def _own_file(files: Files, file_id: str, caller: Caller) -> StoredFile:
    """Raises ApiError (404) for a file that is not there, or another's: its id alone tells nothing."""
    found = _known(files.get, file_id)
    if found is None or not caller.owns(found.owner):
        raise ApiError(404, f"file {file_id[:100]!r} is not here", param="file_id")
    return found


def _own_batch(files: Files, batch_id: str, caller: Caller) -> Batch:
    found = _known(files.batch, batch_id)
    if found is None or not caller.owns(found.owner):
        raise ApiError(404, f"batch {batch_id[:100]!r} is not here", param="batch_id")
    return found


def _known(get: Any, name: str) -> Any:
    try:
        return get(name)
    except (ValueError, OSError):  # a name that is none
        return None


def _page(found: Sequence[dict[str, Any]], limit: int) -> dict[str, Any]:
    data = list(found[:limit])
    return {
        "object": "list",
        "data": data,
        "has_more": len(found) > limit,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
    }


def _file(record: StoredFile) -> dict[str, Any]:
    return {
        "id": record.id,
        "object": "file",
        "bytes": record.bytes,
        "created_at": record.created_at,
        "filename": record.filename,
        "purpose": record.purpose,
        "status": "processed",
    }


def _batch(batch: Batch) -> dict[str, Any]:
    problem = {"code": "failed", "message": batch.problem, "line": None, "param": None}
    ended = {
        f"{status}_at": batch.ended_at if batch.status == status else None
        for status in ("completed", "failed", "cancelled")
    }
    return {
        "id": batch.id,
        "object": "batch",
        "endpoint": batch.endpoint,
        "errors": {"object": "list", "data": [problem]} if batch.problem else None,
        "input_file_id": batch.input_file_id,
        "completion_window": "24h",
        "status": batch.status,
        "output_file_id": batch.output_file_id,
        "error_file_id": batch.error_file_id,
        "created_at": batch.created_at,
        "in_progress_at": batch.in_progress_at,
        "expires_at": batch.created_at + _WINDOW_S,
        **ended,
        "request_counts": {
            "total": batch.total,
            "completed": batch.completed,
            "failed": batch.failed,
        },
        "metadata": batch.metadata,
    }


class Lines:
    """Answers each line of a batch as its route would."""

    def __init__(self, service: Service, desk: Desk, moderation: str) -> None:
        self._service = service
        self._desk = desk
        self._moderation = moderation

    async def answer(self, batch: Batch, line: Line) -> Answered:
        """The answer, or the error that the route would give. One that may pass is waited out."""
        caller = Caller(name=batch.owner, scopes=frozenset(batch.scopes))
        data = json.dumps(line.body).encode()
        retrying = AsyncRetrying(
            retry=retry_if_exception(_may_pass),
            stop=stop_after_attempt(_ATTEMPTS),
            wait=wait_exponential(multiplier=0.5, max=30),
            reraise=True,
        )
        try:
            body: dict[str, Any] = await retrying(self._answer, batch.endpoint, data, caller)
        except (ApiError, TimeoutError) as error:
            status = error.status if isinstance(error, ApiError) else 504
            return Answered(status=status, body=error_of(error))
        return Answered(status=200, body=body)

    async def _answer(self, endpoint: str, data: bytes, caller: Caller) -> dict[str, Any]:
        limits, desk = self._desk.limits, self._desk
        match endpoint:
            case "/v1/chat/completions":
                return await chat(desk, _whole(await _read(data, ChatBody, limits)), caller)
            case "/v1/completions":
                continued = _whole(await _read(data, CompletionBody, limits))
                return await completion(desk, continued, caller)
            case "/v1/responses":
                asked = _whole(await _read(data, ResponsesBody, limits))
                question = await asyncio.to_thread(read_response, desk, asked)
                return await respond_whole(desk, asked, question, caller)
            case "/v1/judgements":
                judged = await parse(data, JudgementsBody, limits)
                return await judgements(self._service, desk, judged, caller)
            case _:
                texts = await _read(data, ModerationBody, limits)
                return await moderations(
                    self._service, desk, texts, caller, default=self._moderation
                )


async def _read(data: bytes, kind: type[BodyT], limits: LimitsConfig) -> BodyT:
    return await parse(data, kind, limits, status=400)


def _whole(body: StreamedT) -> StreamedT:
    if body.stream:
        raise ApiError(400, "stream: a batch has whole answers", param="stream")
    return body


def _may_pass(error: BaseException) -> bool:
    return isinstance(error, ApiError) and error.status in {429, 503}
