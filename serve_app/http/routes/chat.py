"""POST /v1/chat/completions and /v1/completions: OpenAI's requests in, OpenAI's answers out, whole or token by token.

Temperature defaults to 1 as OpenAI's does; 0 is greedy.
"""

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

from fastapi import APIRouter, Response
from fastapi import Request as HTTPRequest
from fastapi.responses import StreamingResponse

from safemirage.evaluation.generators.speech import Chance, ChatAnswer, Delta
from safemirage.evaluation.types import ChatRequest
from serve_app.http.admission import Admission, unless_gone
from serve_app.http.auth import Caller, caller_of
from serve_app.http.bodies import parse, receive_json, takes
from serve_app.http.desk import Desk, Question
from serve_app.http.errors import ApiError, error_of
from serve_app.http.openai import ChatBody, CompletionBody


def chat_routes(desk: Desk, admission: Admission) -> APIRouter:
    router = APIRouter(tags=["chat"])

    @router.post("/v1/chat/completions", response_model=None, openapi_extra=takes(ChatBody))
    async def complete(http: HTTPRequest) -> Response | dict[str, Any]:
        """Answers a conversation about images. With `stream` the answer comes token by token, as server-sent events."""
        data = await receive_json(http, admission, "chat")
        body = await parse(data, ChatBody, desk.limits, status=400)
        if not body.stream:
            return await unless_gone(http, chat(desk, body, caller_of(http)))
        questions = await asyncio.to_thread(read_chat, desk, body)
        deltas = desk.stream(body.model, questions, caller_of(http))
        return await events(http, _chat_chunks(deltas, body, len(questions)))

    @router.post("/v1/completions", response_model=None, openapi_extra=takes(CompletionBody))
    async def continue_text(http: HTTPRequest) -> Response | dict[str, Any]:
        """Continues texts, which are put to the model as they are, without its chat template."""
        data = await receive_json(http, admission, "chat")
        body = await parse(data, CompletionBody, desk.limits, status=400)
        if not body.stream:
            return await unless_gone(http, completion(desk, body, caller_of(http)))
        questions = read_completion(desk, body)
        deltas = desk.stream(body.model, questions, caller_of(http))
        return await events(http, _completion_chunks(deltas, body, questions))

    return router


async def chat(desk: Desk, body: ChatBody, caller: Caller) -> dict[str, Any]:
    """The whole answer to a chat."""
    questions = await asyncio.to_thread(read_chat, desk, body)
    answers = await desk.answers(body.model, questions, caller)
    choices = [
        {
            "index": number,
            "message": {"role": "assistant", "content": answer.text, "refusal": None},
            "logprobs": _chat_logprobs(answer.chances) if body.logprobs else None,
            "finish_reason": answer.finish_reason,
        }
        for number, answer in enumerate(answers)
    ]
    return {
        **_head("chatcmpl", body.model),
        "object": "chat.completion",
        "choices": choices,
        "usage": usage(answers, prompts=1),
    }


def read_chat(desk: Desk, body: ChatBody) -> list[Question]:
    """What a chat asks, once a choice. Raises ApiError."""
    desk.check_choices(body.n or 1)
    top = (body.top_logprobs or 0) if body.logprobs else None
    request = desk.conversation(
        body.messages,
        body.options(top),
        must_continue=body.continue_final_message,
        schema=body.response_format.schema_text if body.response_format else None,
    )
    decoding = desk.decoding(
        max_tokens=body.max_completion_tokens or body.max_tokens,
        temperature=body.temperature,
        top_p=body.top_p,
        seed=body.seed,
    )
    return Question(request=request, decoding=decoding).choices(body.n or 1)


async def completion(desk: Desk, body: CompletionBody, caller: Caller) -> dict[str, Any]:
    """The whole answer to a completion: the choices of the first prompt, then those of the next."""
    questions = read_completion(desk, body)
    answers = await desk.answers(body.model, questions, caller)
    choices = [
        {
            "index": number,
            "text": answer.text,
            "logprobs": _text_logprobs(answer.chances) if body.logprobs is not None else None,
            "finish_reason": answer.finish_reason,
        }
        for number, answer in enumerate(answers)
    ]
    return {
        **_head("cmpl", body.model),
        "object": "text_completion",
        "choices": choices,
        "usage": usage(answers, prompts=len(answers) // (body.n or 1)),
    }


def read_completion(desk: Desk, body: CompletionBody) -> list[Question]:
    """What a completion asks, `n` times a prompt. Raises ApiError."""
    prompts = [body.prompt] if isinstance(body.prompt, str) else body.prompt
    desk.check_choices(len(prompts) * (body.n or 1))
    longest = max(map(len, prompts))
    if longest > desk.limits.prompt_characters or not all(prompts):
        raise ApiError(
            400,
            f"prompt: of {longest} characters; from 1 to {desk.limits.prompt_characters} are taken",
            param="prompt",
            code="context_length_exceeded" if all(prompts) else "invalid_value",
        )
    decoding = desk.decoding(
        max_tokens=body.max_tokens,
        temperature=body.temperature,
        top_p=body.top_p,
        seed=body.seed,
    )
    options = body.options(body.logprobs)
    return [
        choice
        for prompt in prompts
        for choice in Question(
            request=ChatRequest(question=prompt, raw=True, options=options), decoding=decoding
        ).choices(body.n or 1)
    ]


def usage(answers: Sequence[ChatAnswer | Delta], *, prompts: int) -> dict[str, int]:
    """Tokens of the answers and of their prompts; the choices of a prompt share it."""
    each = max(1, len(answers) // prompts)
    prompt = sum(answer.prompt_tokens for answer in answers[::each])
    spoken = sum(answer.completion_tokens for answer in answers)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": spoken,
        "total_tokens": prompt + spoken,
    }


async def events(http: HTTPRequest, chunks: AsyncIterator[str]) -> StreamingResponse:
    """Server-sent events. What goes wrong before the first is an error like any other; what goes wrong later is the last
    event."""
    first = await unless_gone(http, anext(chunks))

    async def whole() -> AsyncIterator[str]:
        try:
            yield first
            async for chunk in chunks:
                yield chunk
        except Exception as error:
            yield f"data: {json.dumps(error_of(error))}\n\n"
        finally:
            await chunks.aclose()  # type: ignore[attr-defined]

    return StreamingResponse(
        whole(), media_type="text/event-stream", headers={"Cache-Control": "no-cache"}
    )


def _head(prefix: str, model: str) -> dict[str, Any]:
    return {
        "id": f"{prefix}-{secrets.token_hex(12)}",
        "created": int(time.time()),
        "model": model,
        "system_fingerprint": None,
    }


async def _chat_chunks(
    deltas: AsyncIterator[tuple[int, Delta]], body: ChatBody, count: int
) -> AsyncIterator[str]:
    head = {**_head("chatcmpl", body.model), "object": "chat.completion.chunk"}
    include_usage = bool(body.stream_options and body.stream_options.include_usage)
    if include_usage:
        head["usage"] = None
    begun: set[int] = set()
    ended: list[Delta] = []

    def chunk(number: int, delta: dict[str, Any], **rest: Any) -> str:
        choice = {"index": number, "delta": delta, "logprobs": None, "finish_reason": None, **rest}
        return _event({**head, "choices": [choice]})

    async for number, said in deltas:
        if number not in begun:
            begun.add(number)
            yield chunk(number, {"role": "assistant", "content": "", "refusal": None})
        logprobs = _chat_logprobs(said.chances) if body.logprobs else None
        if said.text or said.chances:
            yield chunk(number, {"content": said.text}, logprobs=logprobs)
        if said.finish_reason is not None:
            ended.append(said)
            yield chunk(number, {}, finish_reason=said.finish_reason)
    if include_usage:
        yield _event({**head, "choices": [], "usage": usage(ended, prompts=1)})
    yield "data: [DONE]\n\n"


async def _completion_chunks(
    deltas: AsyncIterator[tuple[int, Delta]], body: CompletionBody, questions: Sequence[Question]
) -> AsyncIterator[str]:
    head = {**_head("cmpl", body.model), "object": "text_completion"}
    ended: dict[int, Delta] = {}
    async for number, said in deltas:
        if said.finish_reason is not None:
            ended[number] = said
        choice = {
            "index": number,
            "text": said.text,
            "logprobs": _text_logprobs(said.chances) if body.logprobs is not None else None,
            "finish_reason": said.finish_reason,
        }
        yield _event({**head, "choices": [choice]})
    if body.stream_options and body.stream_options.include_usage:
        spoken = [ended[number] for number in sorted(ended)]
        prompts = len(questions) // (body.n or 1)
        yield _event({**head, "choices": [], "usage": usage(spoken, prompts=prompts)})
    yield "data: [DONE]\n\n"


def _event(tree: dict[str, Any]) -> str:
    return f"data: {json.dumps(tree, ensure_ascii=False)}\n\n"


def _chat_logprobs(chances: Sequence[Chance]) -> dict[str, Any]:
    def entry(text: str, logprob: float) -> dict[str, Any]:
        # A token may be a part of a character, whose bytes its text does not hold.
        data = None if "\ufffd" in text else list(text.encode())
        return {"token": text, "logprob": logprob, "bytes": data}

    content = [
        {
            **entry(chance.text, chance.logprob),
            "top_logprobs": [entry(text, value) for text, value in chance.top],
        }
        for chance in chances
    ]
    return {"content": content, "refusal": None}


def _text_logprobs(chances: Sequence[Chance]) -> dict[str, Any]:
    starts, place = [], 0
    for chance in chances:
        starts.append(place)
        place += len(chance.text)
    return {
        "tokens": [chance.text for chance in chances],
        "token_logprobs": [chance.logprob for chance in chances],
        "top_logprobs": [dict(chance.top) for chance in chances],
        "text_offset": starts,
    }
