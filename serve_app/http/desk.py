"""The desk: puts questions to models for a caller. What may be asked, how much at a time, and what a conversation is.

Every route that asks a model goes through it, and so do batches: the rule who may see what a model says stands here once.
"""

import asyncio
import hashlib
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from safemirage.config.generators import DecodingConfig
from safemirage.config.serve import LimitsConfig
from safemirage.evaluation.generators.speech import ChatAnswer, Delta
from safemirage.evaluation.types import ChatOptions, ChatRequest, ImageInput, Turn
from serve_app.audit import Audit
from serve_app.engines.fair import cost_of
from serve_app.http.admission import Admission
from serve_app.http.auth import Caller, is_restricted
from serve_app.http.errors import ApiError
from serve_app.http.images import read_image
from serve_app.http.observed import Metrics
from serve_app.http.openai import InputItem, Message
from serve_app.http.schemas import ImagePart, Part, TextPart
from serve_app.service import Service


@dataclass(frozen=True, kw_only=True)
class Question:
    """A request to a model, and how its answer is drawn."""

    request: ChatRequest
    decoding: DecodingConfig

    def choices(self, count: int) -> "list[Question]":
        """The question `count` times, each with a seed of its own that follows from its seed."""
        return [self, *(self._choice(number) for number in range(1, count))]

    def _choice(self, number: int) -> "Question":
        content = f"{self.decoding.seed}/{number}".encode()
        seed = int.from_bytes(hashlib.sha256(content).digest()[:8], "big")
        return replace(self, decoding=replace(self.decoding, seed=seed))


class Desk:
    def __init__(
        self,
        service: Service,
        admission: Admission,
        *,
        restricted: Sequence[str],
        follows_schemas: bool,
        audit: Audit,
        metrics: Metrics | None = None,
    ) -> None:
        self._metrics = metrics
        self._service = service
        self.admission = admission
        self._restricted = tuple(restricted)
        self._follows_schemas = follows_schemas
        self._audit = audit
        self.limits: LimitsConfig = admission.limits

    def hides(self, model: str, caller: Caller) -> bool:
        """Whether what this model says is not for this caller."""
        return is_restricted(model, self._restricted) and not caller.may("unredacted")

    async def answers(
        self, model: str, questions: Sequence[Question], caller: Caller
    ) -> list[ChatAnswer]:
        """One answer a question, in order. A caller that is cancelled takes its questions out of the engine."""
        self._check(model, questions, caller)
        async with self.admission.admit(caller.name, _cost(questions)):
            asked = [
                asyncio.ensure_future(
                    self._service.answer(model, one.request, one.decoding, owner=caller.name)
                )
                for one in questions
            ]
            try:
                answers = list(await asyncio.gather(*asked))
            finally:
                for one in asked:
                    one.cancel()
        self._count(answers)
        return answers

    async def stream(
        self, model: str, questions: Sequence[Question], caller: Caller
    ) -> AsyncIterator[tuple[int, Delta]]:
        """What is new of each answer, with the number of its question, as it comes."""
        self._check(model, questions, caller)
        told: asyncio.Queue[tuple[int, Delta | Exception]] = asyncio.Queue()

        async def listen(number: int, one: Question) -> None:
            deltas = self._service.stream(model, one.request, one.decoding, owner=caller.name)
            try:
                async for delta in deltas:
                    told.put_nowait((number, delta))
            except Exception as error:  # raised again where the answer is waited for
                told.put_nowait((number, error))

        loop = asyncio.get_running_loop()
        # No scope of a timeout may be left open at a `yield`: the next step may run in another task.
        deadline = loop.time() + self.limits.request_timeout_s
        with self.admission.place(caller.name, _cost(questions)):
            tasks = [loop.create_task(listen(*numbered)) for numbered in enumerate(questions)]
            open_answers = len(tasks)
            try:
                while open_answers:
                    async with asyncio.timeout_at(deadline):
                        number, said = await told.get()
                    if isinstance(said, Exception):
                        raise said
                    if said.finish_reason is not None:
                        open_answers -= 1
                        self._count([said])
                    yield number, said
            finally:
                for task in tasks:
                    task.cancel()
                with suppress(asyncio.CancelledError):
                    await asyncio.gather(*tasks, return_exceptions=True)

    def _count(self, ended: Sequence[ChatAnswer | Delta]) -> None:
        if self._metrics is None:
            return
        for one in ended:
            self._metrics.tokens.labels("prompt").inc(one.prompt_tokens)
            self._metrics.tokens.labels("answer").inc(one.completion_tokens)
            if one.rows:
                self._metrics.rows.observe(one.rows)

    def _check(self, model: str, questions: Sequence[Question], caller: Caller) -> None:
        """Raises ApiError: 403 where the caller may not, 400 where the engine cannot."""
        caller.require("chat")
        if self.hides(model, caller):
            raise ApiError(
                403,
                f"model {model!r} is restricted: its answers are for tokens with the scope 'unredacted' only "
                "(`restricted` in the service's config)",
                param="model",
                code="model_restricted",
            )
        if is_restricted(model, self._restricted):
            self._audit.write("unredacted", caller.name, door="chat", model=model)
        wants_schema = any(one.request.schema is not None for one in questions)
        if wants_schema and not self._follows_schemas:
            raise ApiError(
                400,
                "Unsupported value: 'response_format' other than text is not supported by the engine transformers; "
                "serve with checkpoints.engine=vllm.",
                param="response_format",
                code="unsupported_value",
            )

    def check_choices(self, count: int) -> None:
        """Raises ApiError where a request asks for more answers than the limit; before there is anything of each."""
        if count > self.limits.choices:
            raise ApiError(
                400,
                f"n: {str(count)[:20]} answers in one request; the limit is {self.limits.choices}",
                param="n",
                code="invalid_value",
            )

    def decoding(
        self,
        *,
        max_tokens: int | None,
        temperature: float | None,
        top_p: float | None,
        seed: int | None = None,
    ) -> DecodingConfig:
        """How an answer is drawn. Raises ApiError where it would be longer than the limit."""
        asked = max_tokens or self.limits.default_new_tokens
        if asked > self.limits.new_tokens:
            raise ApiError(
                400,
                f"max_tokens: {asked} is over the limit of {self.limits.new_tokens}",
                param="max_tokens",
                code="invalid_value",
            )
        drawn = 1.0 if temperature is None else temperature
        # A greedy answer follows from no seed, so that none is drawn.
        unseeded = 0 if drawn == 0 else secrets.randbelow(2**63)
        return DecodingConfig(
            max_new_tokens=asked,
            temperature=drawn,
            top_p=1.0 if top_p is None else top_p,
            seed=unseeded if seed is None else seed,
        )

    def conversation(
        self,
        messages: Sequence[Message | InputItem],
        options: ChatOptions,
        *,
        instructions: str | None = None,
        must_continue: bool = False,
        schema: str | None = None,
    ) -> ChatRequest:
        """The request that a conversation makes. Messages of one role that follow each other are one turn; the last message
        of the assistant, at the end, is the start of the answer.

        Raises:
            ApiError: it is no conversation, or over a limit.
        """
        limits = self.limits
        if len(messages) > limits.turns:
            raise _bad(f"{len(messages)} messages; the limit is {limits.turns}")
        _check_length(messages, instructions, limits)
        system = [instructions] if instructions else []
        turns: list[Turn] = []
        for place, message in enumerate(messages):
            role, text, images = message.role, _text(message.parts), self._images(message.parts)
            if role in {"system", "developer"}:
                if turns or images:
                    raise _bad(f"messages.{place}: a system message is text, before all others")
                system.append(text)
                continue
            turn = Turn(role="user" if role == "user" else "assistant", text=text, images=images)
            if turn.role == "assistant" and images:
                raise _bad(f"messages.{place}: an image in a message of the assistant")
            if turns and turns[-1].role == turn.role:
                before = turns.pop()
                turn = replace(
                    turn, text=f"{before.text}\n{text}", images=(*before.images, *images)
                )
            turns.append(turn)
        prefill = turns.pop().text if turns and turns[-1].role == "assistant" else ""
        if must_continue and messages[-1].role != "assistant":
            raise _bad("continue_final_message: the last message must be the assistant's")
        if not turns:
            raise _bad("there is no message of the user to answer")
        asked = turns.pop()
        return ChatRequest(
            question=asked.text,
            image=asked.images[0] if asked.images else None,
            more_images=asked.images[1:],
            earlier=tuple(turns),
            system="\n\n".join(system) if system else None,
            prefill=prefill,
            options=options,
            schema=schema,
        )

    def _images(self, parts: Sequence[Part]) -> tuple[ImageInput, ...]:
        return tuple(
            read_image(part.image_url.url, limits=self.limits, param="messages.image_url")
            for part in parts
            if isinstance(part, ImagePart)
        )


def _text(parts: Sequence[Part]) -> str:
    return "\n".join(part.text for part in parts if isinstance(part, TextPart))


def _check_length(
    messages: Sequence[Message | InputItem], instructions: str | None, limits: LimitsConfig
) -> None:
    length = len(instructions or "") + sum(len(_text(message.parts)) for message in messages)
    if length > limits.prompt_characters:
        raise ApiError(
            400,
            f"messages: {length} characters; the limit is {limits.prompt_characters}",
            param="messages",
            code="context_length_exceeded",
        )


def _cost(questions: Sequence[Question]) -> int:
    return sum(cost_of(one.request, one.decoding) for one in questions)


def _bad(what: str) -> ApiError:
    return ApiError(400, f"messages: {what}", param="messages", code="invalid_value")
