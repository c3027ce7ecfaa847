"""/v1/evaluations: submit, list, look, follow, cancel, and read the samples, harmful text left out by default."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from fastapi.responses import StreamingResponse

from safemirage.config.loading.load import ConfigError, to_tree
from safemirage.config.rates import check_protocol
from safemirage.config.serve import LimitsConfig
from safemirage.evaluation.errors import COMMONEST_REASON
from safemirage.evaluation.types import ImageInput, Sample, sample_tree
from safemirage.store.evaluations import TERMINAL, Evaluation
from safemirage.store.records import EvaluationRecord, JudgeRecord
from serve_app.audit import Audit
from serve_app.http.admission import Admission, holder
from serve_app.http.auth import Caller, caller_of, needs
from serve_app.http.bodies import parse, parse_all, receive_json, takes
from serve_app.http.desk import Desk
from serve_app.http.errors import ApiError, without_paths
from serve_app.http.images import read_image
from serve_app.http.schemas import EvaluationBody, SampleBody
from serve_app.service import Service

REDACTED = "[redacted: read with ?unredacted=true and a token that has the scope unredacted]"
_NOBODY = Caller(name="", scopes=frozenset())
_JSONL = frozenset({"application/x-ndjson", "application/jsonl"})
_KEEP_ALIVE_S = 15.0

Limit = Annotated[int, Query(ge=1)]
Offset = Annotated[int, Query(ge=0, lt=2**63)]
"""Where a page begins; a database counts no further than 2^63."""
Key = Annotated[str | None, Header(min_length=1, max_length=255)]


def evaluation_routes(
    service: Service, admission: Admission, desk: Desk, audit: Audit, poll_s: float
) -> APIRouter:
    router = APIRouter(tags=["evaluations"], prefix="/v1/evaluations")
    _add_resource(router, service, admission, audit)
    _add_samples(router, service, desk, audit)
    _add_events(router, service, admission, poll_s)
    return router


def _add_resource(router: APIRouter, service: Service, admission: Admission, audit: Audit) -> None:
    limits = admission.limits
    readers = [Depends(needs("read"))]

    @router.post("", status_code=202, openapi_extra=takes(EvaluationBody))
    async def submit(
        request: Request, response: Response, idempotency_key: Key = None
    ) -> dict[str, Any]:
        """Queues an evaluation and answers at once. The same Idempotency-Key with the same body is the same
        evaluation, queued again if it had failed or was cancelled; with another body it is refused (422)."""
        data = await receive_json(request, admission, "evaluate")
        owner = caller_of(request).name
        async with admission.admit(owner):
            body = await parse(data, EvaluationBody, limits)
            record, images = await asyncio.to_thread(_read_record, body, limits)
            record = replace(record, owner=owner)
            evaluation = await service.submit(record, images, idempotency_key=idempotency_key)
        response.headers["Location"] = f"/v1/evaluations/{evaluation.id}"
        return _view(evaluation)

    @router.get("", dependencies=readers)
    async def listing(limit: Limit = 50, offset: Offset = 0) -> dict[str, Any]:
        """Evaluations, newest first."""
        limit = min(limit, limits.page)
        found = await service.evaluations(limit=limit + 1, offset=offset)
        return _page([_view(item) for item in found], limit=limit, offset=offset)

    @router.get("/{evaluation_id}", dependencies=readers)
    async def look(evaluation_id: str) -> dict[str, Any]:
        """State, progress, and the rows with intervals as far as they are known."""
        return _view(await service.evaluation(evaluation_id))

    @router.delete("/{evaluation_id}")
    async def cancel(request: Request, evaluation_id: str) -> dict[str, Any]:
        """Ends an evaluation of one's own; what it has answered so far stays in the store."""
        caller = caller_of(request)
        caller.require("evaluate")
        record = (await service.evaluation(evaluation_id)).readable
        owner = record.owner if record is not None else ""
        if not caller.owns(owner):
            raise ApiError(
                403,
                f"evaluation {evaluation_id!r} is not this token's; to cancel it needs the scope 'admin'",
                param="evaluation_id",
                code="not_yours",
            )
        if owner != caller.name:
            audit.write("admin", caller.name, door="cancel", evaluation=evaluation_id)
        return _view(await service.cancel(evaluation_id))


def _add_samples(router: APIRouter, service: Service, desk: Desk, audit: Audit) -> None:
    limits = desk.limits
    readers = [Depends(needs("read"))]

    @router.get("/{evaluation_id}/samples", response_model=None, dependencies=readers)
    async def samples(
        request: Request,
        evaluation_id: str,
        limit: Limit = 100,
        offset: Offset = 0,
        unredacted: bool = False,
    ) -> Response | dict[str, Any]:
        """Questions, answers and verdicts: a page, or with `Accept: application/x-ndjson` all of them, a JSON
        object a line. Answers to unsafe questions are left out unless a token that may asks for them; those to samples
        that were sent inline too, where the model is restricted, because their labels are the sender's."""
        caller = caller_of(request)
        if unredacted:
            caller.require("unredacted")
        record = (await service.evaluation(evaluation_id)).readable
        shows = _Shows(
            unredacted=unredacted,
            # A record that cannot be read tells neither model nor who labelled its samples.
            trusted=record is not None
            and not (record.samples is not None and desk.hides(record.name, _NOBODY)),
        )
        if unredacted:
            audit.write("unredacted", caller.name, door="samples", evaluation=evaluation_id)
        if _wants_lines(request.headers.get("accept", "")):
            lines = _lines(service, evaluation_id, shows, page=limits.page)
            return StreamingResponse(lines, media_type="application/x-ndjson")
        limit = min(limit, limits.page)
        found = await service.samples(evaluation_id, limit=limit + 1, offset=offset)
        return _page([shows.of(item) for item in found], limit=limit, offset=offset)


def _add_events(router: APIRouter, service: Service, admission: Admission, poll_s: float) -> None:
    streams = Admission(admission.limits)

    @router.get(
        "/{evaluation_id}/events", response_model=None, dependencies=[Depends(needs("read"))]
    )
    async def events(request: Request, evaluation_id: str) -> Response:
        """Server-sent events: `progress` at each change, `end` with the last state."""
        await service.evaluation(evaluation_id)
        streams.check(holder(request))
        return StreamingResponse(
            _events(service, evaluation_id, streams.place(holder(request)), poll_s),
            media_type="text/event-stream",
            headers={"Cache-Control": "no-cache"},
        )


def _read_record(
    body: EvaluationBody, limits: LimitsConfig
) -> tuple[EvaluationRecord, list[ImageInput]]:
    """What is asked for, and the images of the samples in it. Digests of model and suite are still left open."""
    try:
        protocol = check_protocol(body.protocol)
    except ValueError as error:
        raise ApiError(400, str(error), param="protocol", code="unsupported_protocol") from error
    decoding = body.decoding.config(limits.default_new_tokens)
    if decoding.max_new_tokens > limits.new_tokens:
        raise ApiError(
            400,
            f"decoding.max_new_tokens: {decoding.max_new_tokens} is over the limit of {limits.new_tokens}",
            param="decoding.max_new_tokens",
        )
    samples = None if body.samples is None else _read_samples(body.samples, limits)
    record = EvaluationRecord(
        name=body.model,
        source="service",
        suite=body.suite,
        judges=tuple(JudgeRecord(name=name) for name in body.judges),
        protocol=protocol,
        sample=body.sample,
        seed=body.seed,
        decoding=decoding,
        samples=None if samples is None else tuple(map(sample_tree, samples)),
    )
    return record, [sample.image for sample in samples or () if sample.image is not None]


def _read_samples(trees: list[Any], limits: LimitsConfig) -> tuple[Sample, ...]:
    if len(trees) > limits.samples:
        raise ApiError(
            413, f"samples: {len(trees)}; the limit is {limits.samples}", param="samples"
        )
    bodies = parse_all(trees, SampleBody, "samples")
    [(commonest, count)] = Counter(body.sample_id for body in bodies).most_common(1)
    if count > 1:
        raise ApiError(
            422,
            f"samples: sample_id {commonest!r} stands twice",
            param="samples",
            code="invalid_value",
        )
    return tuple(_read_sample(index, body, limits) for index, body in enumerate(bodies))


def _read_sample(index: int, body: SampleBody, limits: LimitsConfig) -> Sample:
    if len(body.question) > limits.prompt_characters:
        raise ApiError(
            413,
            f"samples.{index}.question: {len(body.question)} characters; the limit is {limits.prompt_characters}",
            param=f"samples.{index}.question",
        )
    image = (
        read_image(body.image, limits=limits, param=f"samples.{index}.image")
        if body.image
        else None
    )
    return Sample(
        sample_id=body.sample_id,
        condition=body.condition,
        subset=body.subset,
        attack=body.attack,
        group_id=body.group_id or body.sample_id,
        question=body.question,
        image=image,
        target=body.target,
    )


def _view(evaluation: Evaluation) -> dict[str, Any]:
    return {
        "id": evaluation.id,
        "object": "evaluation",
        "state": evaluation.state,
        **_asked(evaluation),
        "progress": {"done": evaluation.done, "total": evaluation.total},
        "rows": evaluation.row_trees or [],
        "error": _public_error(evaluation.error),
        "created_at": evaluation.created_at.isoformat(),
        "updated_at": evaluation.updated_at.isoformat(),
    }


def _asked(evaluation: Evaluation) -> dict[str, Any]:
    """What callers are shown of what was asked: never inline samples, which may be many. A record of another version
    has its `problem`, and spoils no listing."""
    problem = None
    try:
        record = evaluation.record
    except ConfigError as error:
        record = EvaluationRecord(name=evaluation.id)
        problem = str(error)
    rows = evaluation.row_trees or []
    return {
        "model": rows[0]["model"] if rows else record.name,
        "generator": record.generator,
        "suite": record.suite,
        "suite_digest": record.suite_digest,
        "judges": [judge.name for judge in record.judges],
        "protocol": record.protocol,
        "sample": record.sample,
        "seed": record.seed,
        "decoding": to_tree(record.decoding),
        "source": record.source,
        "owner": record.owner,
        "problem": problem,
    }


def _public_error(error: str | None) -> str | None:
    """The error without the server's paths and without a judge's reason, which may quote the answer; the samples
    have it, for a token that may read it."""
    return without_paths(error.partition(COMMONEST_REASON)[0]) if error is not None else None


def _page(found: list[dict[str, Any]], *, limit: int, offset: int) -> dict[str, Any]:
    """`found` has one entry more than the page where there is another page."""
    more = len(found) > limit
    return {
        "object": "list",
        "data": found[:limit],
        "has_more": more,
        "next_offset": offset + limit if more else None,
    }


@dataclass(frozen=True, kw_only=True)
class _Shows:
    """What a caller is shown of samples."""

    unredacted: bool
    trusted: bool
    """Whether a sample's label says whether it is unsafe."""

    def of(self, sample: dict[str, Any]) -> dict[str, Any]:
        if self.unredacted or (self.trusted and sample["subset"] != "unsafe"):
            return {**sample, "redacted": False}
        # A judge's reason may quote the answer.
        verdicts = [{**verdict, "reason": REDACTED} for verdict in sample["verdicts"]]
        return {**sample, "answer": REDACTED, "verdicts": verdicts, "redacted": True}


def _wants_lines(accept: str) -> bool:
    return any(item.partition(";")[0].strip() in _JSONL for item in accept.split(","))


async def _lines(
    service: Service, evaluation_id: str, shows: _Shows, *, page: int
) -> AsyncIterator[str]:
    offset = 0
    while found := await service.samples(evaluation_id, limit=page, offset=offset):
        for sample in found:
            yield json.dumps(shows.of(sample), ensure_ascii=False) + "\n"
        offset += len(found)


async def _events(
    service: Service,
    evaluation_id: str,
    place: AbstractContextManager[None],
    poll_s: float,
) -> AsyncIterator[str]:
    with place:
        last, quiet_s = "", 0.0
        while True:
            evaluation = await service.evaluation(evaluation_id)
            data = json.dumps(_view(evaluation))
            if evaluation.state in TERMINAL:
                yield f"event: end\ndata: {data}\n\n"
                return
            if data != last:
                yield f"event: progress\ndata: {data}\n\n"
                last, quiet_s = data, 0.0
            elif quiet_s > _KEEP_ALIVE_S:
                yield ": still working\n\n"
                quiet_s = 0.0
            await asyncio.sleep(poll_s)
            quiet_s += poll_s
