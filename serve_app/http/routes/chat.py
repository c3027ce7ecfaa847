"""POST /v1/chat/completions: OpenAI's request in, one question to a model, OpenAI's answer out, whole or streamed.

A conversation is a single turn: an optional system message, one user message with at most one image, and, with
`continue_final_message`, the start of the answer. Temperature defaults to 1 as OpenAI's does; 0 is greedy.
"""

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Response
from fastapi import Request as HTTPRequest
from fastapi.responses import StreamingResponse

from safemirage.config.generators import DecodingConfig
from safemirage.config.serve import LimitsConfig
from safemirage.evaluation.types import Generation, ImageInput, Request
from serve_app.http.admission import Admission
from serve_app.http.bodies import parse, receive_json, takes
from serve_app.http.errors import ApiError
from serve_app.http.images import read_image
from serve_app.http.schemas import ChatBody, ImagePart, Message, TextPart
from serve_app.service import Service


def chat_routes(service: Service, admission: Admission) -> APIRouter:
    router = APIRouter(tags=["chat"])
    limits = admission.limits

    @router.post("/v1/chat/completions", response_model=None, openapi_extra=takes(ChatBody))
    async def complete(http: HTTPRequest) -> Response | dict[str, Any]:
        """Answers a question about an image. With `stream`, the answer comes as server-sent chunks; it is made
        in one pass, so its text is in one chunk."""
        data = await receive_json(http, admission)
        async with admission.admit():
            body = await parse(data, ChatBody, limits)
            request = await asyncio.to_thread(read_request, body, limits)
            decoding = read_decoding(body, limits)
            [generation] = await service.generate(body.model, [request], decoding)
        head = {
            "id": f"chatcmpl-{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": body.model,
        }
        if not body.stream:
            return _completion(head, generation)
        include_usage = body.stream_options is not None and body.stream_options.include_usage
        chunks = _chunks(head, generation, include_usage=include_usage)
        return StreamingResponse(
            chunks, media_type="text/event-stream", headers={"Cache-Control": "no-cache"}
        )

    return router


def read_decoding(body: ChatBody, limits: LimitsConfig) -> DecodingConfig:
    """How the answer is drawn. Raises ApiError where it would be longer than the limit."""
    asked = body.max_completion_tokens or body.max_tokens or limits.default_new_tokens
    if asked > limits.new_tokens:
        raise ApiError(
            400, f"max_tokens: {asked} is over the limit of {limits.new_tokens}", param="max_tokens"
        )
    temperature = 1.0 if body.temperature is None else body.temperature
    # A greedy answer follows from no seed, so that none is drawn.
    unseeded = 0 if temperature == 0 else secrets.randbelow(2**31)
    return DecodingConfig(
        max_new_tokens=asked,
        temperature=temperature,
        top_p=1.0 if body.top_p is None else body.top_p,
        seed=unseeded if body.seed is None else body.seed,
    )


def read_request(body: ChatBody, limits: LimitsConfig) -> Request:
    """The single turn in `messages`. Raises ApiError that says which message does not fit one."""
    system, user, prefill = _turn(body)
    texts, images = _content(user, limits)
    if len(images) > 1:
        raise ApiError(
            400, f"messages: {len(images)} images; at most one is supported", param="messages"
        )
    return Request(
        question="\n".join(texts),
        image=images[0] if images else None,
        system=_only_text(system, limits) if system else None,
        prefill=_only_text(prefill, limits) if prefill else "",
    )


def _turn(body: ChatBody) -> tuple[Message | None, Message, Message | None]:
    messages = list(body.messages)
    system = messages.pop(0) if messages[0].role in {"system", "developer"} else None
    prefill = messages.pop() if body.continue_final_message and messages else None
    if prefill and prefill.role != "assistant":
        raise ApiError(
            400,
            "continue_final_message: the last message must be the assistant's",
            param="messages",
        )
    if [message.role for message in messages] != ["user"]:
        roles = ", ".join(message.role for message in body.messages)
        raise ApiError(
            400,
            f"messages: roles {roles}; a single turn is supported: an optional system message and one of the user",
            param="messages",
            code="unsupported_conversation",
        )
    return system, messages[0], prefill


def _content(message: Message, limits: LimitsConfig) -> tuple[list[str], list[ImageInput]]:
    parts = (
        [TextPart(type="text", text=message.content)]
        if isinstance(message.content, str)
        else message.content
    )
    texts = [part.text for part in parts if isinstance(part, TextPart)]
    length = sum(len(text) for text in texts)
    if length > limits.prompt_characters:
        raise ApiError(
            400,
            f"messages: {length} characters; the limit is {limits.prompt_characters}",
            param="messages",
            code="context_length_exceeded",
        )
    images = [
        read_image(part.image_url.url, limits=limits, param="messages.image_url")
        for part in parts
        if isinstance(part, ImagePart)
    ]
    return texts, images


def _only_text(message: Message, limits: LimitsConfig) -> str:
    texts, images = _content(message, limits)
    if images:
        raise ApiError(
            400, f"messages: an image in a message of the {message.role}", param="messages"
        )
    return "\n".join(texts)


def _usage(generation: Generation) -> dict[str, int]:
    return {
        "prompt_tokens": generation.prompt_tokens,
        "completion_tokens": generation.completion_tokens,
        "total_tokens": generation.prompt_tokens + generation.completion_tokens,
    }


def _completion(head: dict[str, Any], generation: Generation) -> dict[str, Any]:
    message = {"role": "assistant", "content": generation.text, "refusal": None}
    choice = {
        "index": 0,
        "message": message,
        "logprobs": None,
        "finish_reason": generation.finish_reason,
    }
    return {**head, "object": "chat.completion", "choices": [choice], "usage": _usage(generation)}


async def _chunks(
    head: dict[str, Any], generation: Generation, *, include_usage: bool
) -> AsyncIterator[str]:
    steps: list[tuple[dict[str, Any], str | None]] = [
        ({"role": "assistant", "content": ""}, None),
        ({"content": generation.text}, None),
        ({}, generation.finish_reason),
    ]
    body = {**head, "object": "chat.completion.chunk"}
    if include_usage:
        body["usage"] = None
    for delta, finish_reason in steps:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        yield f"data: {json.dumps({**body, 'choices': [choice]})}\n\n"
    if include_usage:
        yield f"data: {json.dumps({**body, 'choices': [], 'usage': _usage(generation)})}\n\n"
    yield "data: [DONE]\n\n"
