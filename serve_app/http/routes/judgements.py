"""POST /v1/judgements: a batch of answers, a judge by name, one verdict an item. A bad item spoils only itself.
POST /v1/moderations: the same in OpenAI's words."""

import asyncio
import secrets
from collections.abc import Sequence
from typing import Any, get_args

from fastapi import APIRouter, Request
from pydantic import ValidationError

from safemirage.config.rates import Label
from safemirage.config.serve import LimitsConfig
from safemirage.evaluation.judges import Judged
from safemirage.evaluation.types import Sample, Verdict
from serve_app.http.admission import unless_gone
from serve_app.http.auth import Caller, caller_of
from serve_app.http.bodies import parse, receive_json, takes
from serve_app.http.desk import Desk
from serve_app.http.errors import ApiError
from serve_app.http.images import read_image
from serve_app.http.observed import Metrics
from serve_app.http.openai import ModerationBody, ModerationPart
from serve_app.http.schemas import JudgementItem, JudgementsBody
from serve_app.service import Service

REDACTED = "[redacted: the judge's own words are for the scope unredacted]"


def judgement_routes(service: Service, desk: Desk, metrics: Metrics, moderation: str) -> APIRouter:
    router = APIRouter(tags=["judging"])
    admission, limits = desk.admission, desk.limits

    @router.post("/v1/judgements", response_model=None, openapi_extra=takes(JudgementsBody))
    async def judge(http: Request) -> dict[str, Any]:
        """Labels answers: comply, refuse, other, or unscored with the reason. Each entry of `data` has either a
        `verdict` or an `error`, in the order of `items`."""
        data = await receive_json(http, admission, "judge")
        body = await parse(data, JudgementsBody, limits)
        found = await unless_gone(http, judgements(service, desk, body, caller_of(http)))
        verdicts = [entry["verdict"] for entry in found["data"] if entry["verdict"]]
        metrics.unscored.inc(sum(verdict["label"] == "unscored" for verdict in verdicts))
        return found

    @router.post("/v1/moderations", response_model=None, openapi_extra=takes(ModerationBody))
    async def moderate(http: Request) -> dict[str, Any]:
        """Judges texts as answers. The categories are the judge's labels, and what it labels `comply` is flagged. A text
        that the judge gives no verdict on has `flagged: null` and the reason in `unscored`."""
        data = await receive_json(http, admission, "judge")
        body = await parse(data, ModerationBody, limits, status=400)
        work = moderations(service, desk, body, caller_of(http), default=moderation)
        found = await unless_gone(http, work)
        metrics.unscored.inc(sum(result["flagged"] is None for result in found["results"]))
        return found

    return router


async def judgements(
    service: Service, desk: Desk, body: JudgementsBody, caller: Caller
) -> dict[str, Any]:
    """The verdicts of a judge."""
    caller.require("judge")
    limits, admission = desk.limits, desk.admission
    if len(body.items) > limits.items:
        raise ApiError(
            413,
            f"items: {len(body.items)} in one batch; the limit is {limits.items}",
            param="items",
        )
    read = await asyncio.to_thread(_read_items, body.items, limits)
    good = [item for item in read if isinstance(item, Judged)]
    async with admission.admit(caller.name, _cost(good)):
        verdicts = iter(await service.judge(body.judge, good))
    entries: list[dict[str, Any]] = []
    for index, item in enumerate(read):
        if isinstance(item, ApiError):
            problem = {"message": item.message, "param": item.param, "code": item.code}
            entries.append({"index": index, "verdict": None, "error": problem})
        else:
            verdict = next(verdicts)
            said = {
                "label": verdict.label,
                "reason": _reason(service, desk, body.judge, verdict, caller),
                "score": verdict.score,
            }
            entries.append({"index": index, "verdict": said, "error": None})
    return {"object": "list", "judge": body.judge, "data": entries}


async def moderations(
    service: Service,
    desk: Desk,
    body: ModerationBody,
    caller: Caller,
    *,
    default: str,
) -> dict[str, Any]:
    """OpenAI's moderation by a judge of this service."""
    caller.require("judge")
    judge, limits, admission = body.model or default, desk.limits, desk.admission
    given = [body.input] if isinstance(body.input, str) else body.input
    parts = [one for one in given if isinstance(one, ModerationPart)]
    # A list of parts is one input, a list of texts is as many.
    images = [part.image_url["url"] for part in parts if part.image_url and "url" in part.image_url]
    texts = (
        ["\n".join(part.text or "" for part in parts)]
        if parts
        else [one for one in given if isinstance(one, str)]
    )
    if len(images) > 1 or len(texts) > limits.items or (parts and len(parts) < len(given)):
        raise ApiError(
            400,
            f"input: send texts (at most {limits.items}), or the parts of one input with at most one image",
            param="input",
            code="invalid_value",
        )
    image = images[0] if images else None
    trees = [{"question": "", "answer": text, "image": image} for text in texts]
    read = await asyncio.to_thread(_read_items, trees, limits)
    for item in read:
        if isinstance(item, ApiError):
            raise ApiError(400, item.message, param="input", code=item.code)
    items = [item for item in read if isinstance(item, Judged)]
    async with admission.admit(caller.name, _cost(items)):
        verdicts = await service.judge(judge, items)
    results = [
        _moderation(verdict, _reason(service, desk, judge, verdict, caller), bool(image))
        for verdict in verdicts
    ]
    return {"id": f"modr-{secrets.token_hex(12)}", "model": judge, "results": results}


def _reason(service: Service, desk: Desk, judge: str, verdict: Verdict, caller: Caller) -> str:
    """The judge's words. A judge that is a restricted model can be talked into saying anything by what it judges."""
    model = next((card.model for card in service.judges() if card.name == judge), None)
    return REDACTED if model is not None and desk.hides(model, caller) else verdict.reason


def _moderation(verdict: Verdict, reason: str, has_image: bool) -> dict[str, Any]:
    kinds = ["text", "image"] if has_image else ["text"]
    if verdict.label == "unscored":
        # Neither safe nor harmful is known: a client that reads `flagged` gets no answer rather than a wrong one.
        return {"flagged": None, "unscored": reason} | {
            name: {} for name in ("categories", "category_scores", "category_applied_input_types")
        }
    labels = [label for label in get_args(Label) if label != "unscored"]
    scores = {label: float(label == verdict.label) for label in labels}
    if verdict.score is not None:
        scores["comply"] = verdict.score
    return {
        "flagged": verdict.label == "comply",
        "categories": {label: label == verdict.label for label in labels},
        "category_scores": scores,
        "category_applied_input_types": dict.fromkeys(labels, kinds),
    }


def _cost(items: Sequence[Judged]) -> int:
    """About the tokens that a judge reads."""
    return sum(len(item.sample.question) + len(item.answer) for item in items) // 4


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
