"""POST /v1/judgements: a batch of answers, a judge by name, one verdict an item. A bad item spoils only itself."""

import asyncio
from typing import Any

from fastapi import APIRouter, Request
from pydantic import ValidationError

from safemirage.config.serve import LimitsConfig
from safemirage.evaluation.judges import Judged
from safemirage.evaluation.types import Sample
from serve_app.http.admission import Admission
from serve_app.http.bodies import parse, receive_json, takes
from serve_app.http.errors import ApiError
from serve_app.http.images import read_image
from serve_app.http.schemas import JudgementItem, JudgementsBody
from serve_app.service import Service


def judgement_routes(service: Service, admission: Admission) -> APIRouter:
    router = APIRouter(tags=["judging"])
    limits = admission.limits

    @router.post("/v1/judgements", openapi_extra=takes(JudgementsBody))
    async def judge(http: Request) -> dict[str, Any]:
        """Labels answers: comply, refuse, other, or unscored with the reason. Each entry of `data` has either a
        `verdict` or an `error`, in the order of `items`."""
        data = await receive_json(http, admission)
        async with admission.admit():
            body = await parse(data, JudgementsBody, limits)
            if len(body.items) > limits.items:
                raise ApiError(
                    413,
                    f"items: {len(body.items)} in one batch; the limit is {limits.items}",
                    param="items",
                )
            read = await asyncio.to_thread(_read_items, body.items, limits)
            good = [item for item in read if isinstance(item, Judged)]
            verdicts = iter(await service.judge(body.judge, good))
        entries: list[dict[str, Any]] = []
        for index, item in enumerate(read):
            if isinstance(item, ApiError):
                problem = {"message": item.message, "param": item.param, "code": item.code}
                entries.append({"index": index, "verdict": None, "error": problem})
            else:
                verdict = next(verdicts)
                said = {"label": verdict.label, "reason": verdict.reason}
                entries.append({"index": index, "verdict": said, "error": None})
        return {"object": "list", "judge": body.judge, "data": entries}

    return router


def _read_items(items: list[Any], limits: LimitsConfig) -> list[Judged | ApiError]:
    result: list[Judged | ApiError] = []
    for index, item in enumerate(items):
        try:
            result.append(_read_item(index, item, limits))
        except ApiError as error:
            result.append(error)
    return result


def _read_item(index: int, raw: Any, limits: LimitsConfig) -> Judged:
    where = f"items.{index}"
    try:
        item = JudgementItem.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        path = ".".join([where, *map(str, first["loc"])])
        raise ApiError(422, f"{path}: {first['msg']}", param=path, code="invalid_value") from error
    longest = max(len(item.question), len(item.answer))
    if longest > limits.prompt_characters:
        raise ApiError(
            413,
            f"{where}: {longest} characters; the limit is {limits.prompt_characters}",
            param=where,
            code="too_large",
        )
    image = read_image(item.image, limits=limits, param=f"{where}.image") if item.image else None
    condition = Sample(
        sample_id=where,
        condition="judgement",
        subset=item.subset,
        attack="plain",
        group_id=where,
        question=item.question,
        image=image,
        target=item.target,
    )
    return Judged(sample=condition, answer=item.answer)
