"""POST /v1/responses: OpenAI's newer interface. Text and images in, text out, whole or as events; no tools, nothing kept.

A conversation is sent whole each time: there is no `previous_response_id`, because no answer is kept here.
"""

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator
from itertools import count
from typing import Any

from fastapi import APIRouter, Request, Response

from safemirage.evaluation.generators.speech import ChatAnswer, Delta
from safemirage.evaluation.types import ChatOptions
from serve_app.http.admission import Admission, unless_gone
from serve_app.http.auth import Caller, caller_of
from serve_app.http.bodies import parse, receive_json, takes
from serve_app.http.desk import Desk, Question
from serve_app.http.errors import ApiError, error_of
from serve_app.http.openai import InputItem, ResponsesBody
from serve_app.http.routes.chat import events


def response_routes(desk: Desk, admission: Admission) -> APIRouter:
    router = APIRouter(tags=["chat"])

    @router.post("/v1/responses", response_model=None, openapi_extra=takes(ResponsesBody))
    async def respond(http: Request) -> Response | dict[str, Any]:
        """Answers a conversation. With `stream` it comes as OpenAI's events, token by token."""
        data = await receive_json(http, admission, "chat")
        body = await parse(data, ResponsesBody, desk.limits, status=400)
        question = await asyncio.to_thread(read_response, desk, body)
        if body.stream:
            deltas = desk.stream(body.model, [question], caller_of(http))
            return await events(http, _events(deltas, body, question))
        return await unless_gone(http, respond_whole(desk, body, question, caller_of(http)))

    return router


async def respond_whole(
    desk: Desk, body: ResponsesBody, question: Question, caller: Caller
) -> dict[str, Any]:
    [answer] = await desk.answers(body.model, [question], caller)
    return {**_head(body, question), **_ended(_new_id("msg"), answer.text, answer)}


def read_response(desk: Desk, body: ResponsesBody) -> Question:
    """What is asked. Raises ApiError."""
    items = (
        [InputItem(role="user", content=body.input)] if isinstance(body.input, str) else body.input
    )
    return Question(
        request=desk.conversation(
            items, ChatOptions(), instructions=body.instructions, schema=body.schema_text
        ),
        decoding=desk.decoding(
            max_tokens=body.max_output_tokens, temperature=body.temperature, top_p=body.top_p
        ),
    )


def _head(body: ResponsesBody, question: Question) -> dict[str, Any]:
    return {
        "id": _new_id("resp"),
        "object": "response",
        "created_at": int(time.time()),
        "status": "in_progress",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "metadata": {},
        "model": body.model,
        "output": [],
        "parallel_tool_calls": False,
        "previous_response_id": None,
        "reasoning": {"effort": None, "summary": None},
        "service_tier": "default",
        "store": False,
        "temperature": question.decoding.temperature,
        "text": {"format": (body.text and body.text.format) or {"type": "text"}},
        "tool_choice": "none",
        "tools": [],
        "top_p": question.decoding.top_p,
        "truncation": "disabled",
        "usage": None,
        "user": None,
    }


def _ended(item: str, text: str, last: ChatAnswer | Delta) -> dict[str, Any]:
    """What the end of an answer makes of its head."""
    is_whole = last.finish_reason == "stop"
    return {
        "status": "completed" if is_whole else "incomplete",
        "incomplete_details": None if is_whole else {"reason": "max_output_tokens"},
        "output": [_message(item, text, "completed" if is_whole else "incomplete")],
        "usage": {
            "input_tokens": last.prompt_tokens,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": last.completion_tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": last.prompt_tokens + last.completion_tokens,
        },
    }


def _message(item: str, text: str | None, status: str) -> dict[str, Any]:
    content = [] if text is None else [_part(text)]
    return {
        "id": item,
        "type": "message",
        "status": status,
        "role": "assistant",
        "content": content,
    }


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


async def _events(
    deltas: AsyncIterator[tuple[int, Delta]], body: ResponsesBody, question: Question
) -> AsyncIterator[str]:
    head, item, numbers = _head(body, question), _new_id("msg"), count()
    place = {"item_id": item, "output_index": 0, "content_index": 0}

    def event(kind: str, **fields: Any) -> str:
        tree = {"type": f"response.{kind}", "sequence_number": next(numbers), **fields}
        return f"event: {tree['type']}\ndata: {json.dumps(tree, ensure_ascii=False)}\n\n"

    text = ""
    begun = False
    try:
        async for _, said in deltas:
            if not begun:
                begun = True
                yield event("created", response=head)
                yield event("in_progress", response=head)
                message = _message(item, None, "in_progress")
                yield event("output_item.added", output_index=0, item=message)
                yield event("content_part.added", **place, part=_part(""))
            if said.text:
                text += said.text
                yield event("output_text.delta", **place, delta=said.text, logprobs=[])
            if said.finish_reason is not None:
                ended = {**head, **_ended(item, text, said)}
                yield event("output_text.done", **place, text=text, logprobs=[])
                yield event("content_part.done", **place, part=_part(text))
                yield event("output_item.done", output_index=0, item=ended["output"][0])
                yield event(ended["status"], response=ended)
    except (ApiError, TimeoutError) as error:
        if not begun:
            raise
        problem = error_of(error)["error"]
        failure = {"code": problem["code"], "message": problem["message"]}
        yield event("failed", response={**head, "status": "failed", "error": failure})


def _new_id(kind: str) -> str:
    return f"{kind}_{secrets.token_hex(16)}"
