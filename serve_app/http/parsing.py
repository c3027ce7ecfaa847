"""JSON bodies into pydantic models, off the event loop; the first problems suffice."""

import asyncio
import json
from collections.abc import Sequence
from typing import Any, TypeVar

from fastapi import FastAPI, Request
from pydantic import BaseModel, ValidationError
from pydantic.json_schema import models_json_schema

from safemirage.config.serve import LimitsConfig
from serve_app.http.errors import ApiError, invalid
from serve_app.http.limits import Admission

_SCHEMAS = "#/components/schemas/{model}"
_MOST_PROBLEMS = 20
BodyT = TypeVar("BodyT", bound=BaseModel)


async def receive_json(request: Request, admission: Admission) -> bytes:
    """The body, whole; what it holds is not looked at yet.

    Raises:
        ApiError: all places are taken (429), it is not called JSON (415), or it is over a limit (408, 413, 429).
    """
    admission.check()
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json" and not (
        kind.startswith("application/") and kind.endswith("+json")
    ):
        raise ApiError(
            415, f"Content-Type: {kind or 'none'}; send application/json", param="Content-Type"
        )
    return await request.body()


async def parse(data: bytes, body: type[BodyT], limits: LimitsConfig) -> BodyT:
    """The body as its model.

    Raises:
        ApiError: it is not JSON (400), has a mapping of too many keys (413), or is not what the model says (422).
    """
    return await asyncio.to_thread(_parse, data, body, limits)


def parse_all(trees: Sequence[Any], body: type[BodyT], where: str) -> list[BodyT]:
    """One model a tree, each by itself, so that not many more problems are collected than are told.

    Raises:
        ApiError: some are not what the model says (422).
    """
    result, problems = [], []
    for index, tree in enumerate(trees):
        try:
            result.append(body.model_validate(tree))
        except ValidationError as error:
            problems += [{**item, "loc": (where, index, *item["loc"])} for item in _problems(error)]
            if len(problems) >= _MOST_PROBLEMS:
                break
    if problems:
        raise invalid(problems)
    return result


def takes(body: type[BaseModel]) -> dict[str, Any]:
    """`openapi_extra` of a route that reads its body by `parse`."""
    schema = {"$ref": _SCHEMAS.format(model=body.__name__)}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def describe_bodies(app: FastAPI, bodies: Sequence[type[BaseModel]]) -> None:
    """Adds the schemas of bodies, which FastAPI does not see, to the app's OpenAPI page."""
    inputs = [(body, "validation") for body in bodies]
    _, described = models_json_schema(inputs, ref_template=_SCHEMAS)  # type: ignore[arg-type]
    drawn = app.openapi

    def openapi() -> dict[str, Any]:
        schema = drawn()
        schema.setdefault("components", {}).setdefault("schemas", {}).update(described["$defs"])
        return schema

    app.openapi = openapi  # type: ignore[method-assign]


def _parse(data: bytes, body: type[BodyT], limits: LimitsConfig) -> BodyT:
    def mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(pairs) > limits.body_keys:
            raise ApiError(
                413,
                f"the body has a mapping of {len(pairs)} keys; the limit is {limits.body_keys} (limits.body_keys)",
                param="body",
            )
        return dict(pairs)

    try:
        # Only of UTF-8 are the marks of a body's shape what they were counted as.
        tree = json.loads(data.decode("utf-8"), object_pairs_hook=mapping)
    except ValueError as error:
        message = f"the body is not JSON in UTF-8: {error}"
        raise ApiError(400, message, code="invalid_json") from error
    try:
        return body.model_validate(tree)
    except ValidationError as error:
        raise invalid(_problems(error)) from error


def _problems(error: ValidationError) -> list[Any]:
    return error.errors(include_url=False, include_input=False, include_context=False)
