"""A generator behind any OpenAI-compatible URL: this project's service, vLLM, hosted models.

This project's service, known by the weights' digest that it reports, keeps control tokens in texts text. For any other
server they are disarmed before they are sent (`safemirage.text.control_words`). Images go as PNG of their pixels.

Requests, their time-outs and their tries are those of the package `openai`, which is imported where a client is made,
because that takes a second. A request that the service finds wrong is RequestRejected; everything else (no access, no
such model, tries used up, an answer that cannot be read) is GeneratorUnavailable.
"""

import asyncio
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

from safemirage.config.generators import DecodingConfig, OpenAIConfig
from safemirage.config.loading.identity import digest_of
from safemirage.evaluation.generators import GenerationError, GeneratorUnavailable, RequestRejected
from safemirage.evaluation.types import EVALUATION_SCOPE, Choice, Generation, Request
from safemirage.models.images import ImageError
from safemirage.text.characters import half_character
from safemirage.text.control_words import disarmed

if TYPE_CHECKING:
    import httpx2  # what `openai` speaks HTTP with
    import openai

_REJECTED = frozenset({400, 413, 415, 422})
_ABSENT = frozenset({404, 405, 501})
_PROBE_TIMEOUT_S = 5.0
_LISTED = 8
_DIALECT = ("system_role", "send_temperature", "response_format", "reasoning_tokens")
"""Fields of the config that may change an answer; they are in the key where they are not the usual ones."""
_USUAL = {item.name: item.default for item in fields(OpenAIConfig)}
_ALTERNATIVES = 5
"""Tokens beside the chosen one whose probabilities are asked for: what OpenAI and vLLM both give."""
_REPORTED = ("weights_digest", "processor_digest", "engine", "engine_version", "dtype")


class OpenAIGenerator:
    """async with OpenAIGenerator(config) as generator: ...

    On entry /models is read: a `weights_digest` there becomes the generator's key.
    """

    def __init__(
        self,
        config: OpenAIConfig,
        *,
        transport: "httpx2.AsyncBaseTransport | None" = None,
    ) -> None:
        """Raises GeneratorUnavailable where the variable that holds a header is not set."""
        import openai

        if unset := _unset_headers(config):
            raise GeneratorUnavailable(f"headers_env: {unset}")
        self._config = config
        self._client = openai.AsyncOpenAI(
            **_access(config),
            max_retries=config.attempts - 1,
            http_client=openai.DefaultAsyncHttpxClient(
                # A redirect would take secret headers to another host.
                timeout=config.timeout_s,
                transport=transport,
                follow_redirects=False,
            ),
        )
        self._free = asyncio.Semaphore(config.concurrency)
        self._reported: dict[str, str] = {}

    async def __aenter__(self) -> Self:
        try:
            self._reported = await self._read_card()
        except BaseException:
            await self._client.close()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._client.close()

    @property
    def key(self) -> Mapping[str, str]:
        key = {"client": "openai", "model": self._config.model}
        if self._config.revision is not None:
            key["revision"] = self._config.revision
        if self._config.extra_body:
            key["extra_body"] = digest_of(self._config.extra_body)
        if self._config.headers:
            key["headers"] = digest_of(self._config.headers)
        dialect = {name: str(getattr(self._config, name)) for name in _DIALECT}
        key |= {name: value for name, value in dialect.items() if value != str(_USUAL[name])}
        if self._is_ours:
            return {**{name: key[name] for name in key if name != "model"}, **self._reported}
        key["url"] = self._config.url
        return key if self._config.revision is not None else {**key, "scope": EVALUATION_SCOPE}

    @property
    def _is_ours(self) -> bool:
        """Whether this project's service answers: it keeps control tokens in texts text, and to no schema."""
        return "weights_digest" in self._reported

    async def generate(
        self, requests: Sequence[Request], decoding: DecodingConfig
    ) -> list[Generation]:
        tasks = [asyncio.ensure_future(self._answer(request, decoding)) for request in requests]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:  # after a failure the others need not be finished
                task.cancel()

    async def _answer(self, request: Request, decoding: DecodingConfig) -> Generation:
        if not self._is_ours:
            request = _disarmed(request)
        async with self._free:
            try:  # in a thread: a large image takes a while to encode
                body = await asyncio.to_thread(
                    _body, self._config, request, decoding, keeps_schema=not self._is_ours
                )
            except ImageError as error:
                raise RequestRejected(str(error)) from error
            return _read_generation(
                await self._send("POST", "chat/completions", body), request.choice
            )

    async def _read_card(self) -> dict[str, str]:
        """What the service says of the model; nothing where it has no such list."""
        try:
            response = await self._send("GET", "models")
        except (RequestRejected, _NotFound):
            return {}
        cards = _json(response).get("data")
        for card in cards if isinstance(cards, list) else []:
            if isinstance(card, dict) and card.get("id") == self._config.model:
                return {name: card[name] for name in _REPORTED if isinstance(card.get(name), str)}
        return {}

    async def _send(self, method: str, path: str, body: Any = None) -> "httpx2.Response":
        """A response that is a success. Raises RequestRejected or GeneratorUnavailable."""
        import httpx2
        import openai

        where = f"{method} {self._client.base_url}{path}"
        options: openai.RequestOptions = {"headers": _authorization(self._config)}
        try:
            if method == "GET":
                return await self._client.get(path, cast_to=httpx2.Response, options=options)
            return await self._client.post(
                path, cast_to=httpx2.Response, body=body, options=options
            )
        except openai.APIStatusError as error:
            raise _failure(error.response, where) from error
        except openai.APIConnectionError as error:
            cause = error.__cause__ or error
            problem = f"{type(cause).__name__}: {cause}{_tries(error.request)}"
            raise GeneratorUnavailable(f"{where}: {problem}") from error


@dataclass(frozen=True)
class MissingService:
    """What is wrong with a model behind a URL, and which field of its config says so."""

    field: Literal["url", "model", "api_key_env", "headers_env"]
    text: str


def missing_service(
    config: OpenAIConfig, *, transport: "httpx2.BaseTransport | None" = None
) -> MissingService | None:
    """What keeps the model from being asked, found out by one short request; None where nothing does.

    A service that has no list of models, or lists none, is not asked which it has.
    """
    import httpx2
    import openai

    if unset := _unset_headers(config):
        return MissingService("headers_env", f"{unset}; set it")
    try:
        with openai.OpenAI(
            **_access(config),
            max_retries=0,
            http_client=openai.DefaultHttpxClient(
                timeout=_PROBE_TIMEOUT_S, transport=transport, follow_redirects=False
            ),
        ) as client:
            response = client.get(
                "models",
                cast_to=httpx2.Response,
                options={"headers": _authorization(config)},
            )
    except openai.APIStatusError as error:
        response = error.response
    except openai.APIConnectionError as error:
        why = str(error.__cause__) or type(error.__cause__).__name__
        return MissingService(
            "url", f"{config.url!r} cannot be reached ({why}); start the service there"
        )
    status = response.status_code
    if status in (401, 403):
        return MissingService(
            "api_key_env",
            f"{config.url!r} refuses access ({status}: {_message(response)}); put its token into the variable "
            f"{config.api_key_env}",
        )
    if status >= 500:
        return MissingService(
            "url",
            f"{config.url!r} answers {status}: {_message(response)}; wait until the service there is ready",
        )
    served = _served(response)
    if not served or config.model in served:
        return None
    listed = ", ".join(map(repr, served[:_LISTED])) + (", ..." if len(served) > _LISTED else "")
    return MissingService(
        "model",
        f"{config.model!r} is not served at {config.url!r}, which has {listed}; serve it there",
    )


def _served(response: "httpx2.Response") -> list[str]:
    """The ids in a service's list of models; empty where it has none."""
    try:
        return [str(card["id"]) for card in response.json()["data"]]
    except (ValueError, KeyError, TypeError):
        return []


def _access(config: OpenAIConfig) -> dict[str, Any]:
    """Where the clients of `openai` send their requests, and with what headers."""
    secret = {header: os.environ[name] for header, name in config.headers_env.items()}
    return {
        "base_url": config.url,
        "api_key": os.environ.get(config.api_key_env) or "none",  # never sent: see _authorization
        "default_headers": {**config.headers, **secret},
    }


def _authorization(config: OpenAIConfig) -> "dict[str, str | openai.Omit]":
    """What a request needs so that nothing is sent where there is no token: `openai` cannot be made without one."""
    import openai

    named = {header.lower() for header in config.headers_env}
    sent = os.environ.get(config.api_key_env) or "authorization" in named
    return {} if sent else {"Authorization": openai.omit}


def _unset_headers(config: OpenAIConfig) -> str | None:
    """The first header whose environment variable is not set, in words."""
    for header, name in config.headers_env.items():
        if not os.environ.get(name):
            return f"{header}: the environment variable {name!r} is not set"
    return None


class _NotFound(GeneratorUnavailable):
    """The URL, or the model there, does not exist."""


def _failure(response: "httpx2.Response", where: str) -> GenerationError:
    """The error that stands for a response without success."""
    status = response.status_code
    problem = f"{where}: {status}: {_message(response)}{_tries(response.request)}"
    if status in _REJECTED:
        return RequestRejected(problem)
    return _NotFound(problem) if status in _ABSENT else GeneratorUnavailable(problem)


def _tries(request: "httpx2.Request") -> str:
    """How often a request was sent, where that was more than once."""
    retries = int(request.headers.get("x-stainless-retry-count", 0))
    return f" (tried {retries + 1} times)" if retries else ""


def _disarmed(request: Request) -> Request:
    """The request with no text that a server may take for control tokens."""
    return replace(
        request,
        question=disarmed(request.question),
        system=None if request.system is None else disarmed(request.system),
        prefill=disarmed(request.prefill),
        answered=None if request.answered is None else disarmed(request.answered),
    )


def _body(
    config: OpenAIConfig, request: Request, decoding: DecodingConfig, *, keeps_schema: bool = True
) -> dict[str, Any]:
    """The request's body in the server's dialect. `keeps_schema`: whether the server can keep to a JSON schema."""
    text, system = request.question, request.system
    if system is not None and config.system_role == "user":
        text, system = f"{system}\n\n{text}", None
    content: list[dict[str, Any]] = [{"type": "text", "text": text}]
    if request.image is not None:
        content.insert(0, {"type": "image_url", "image_url": {"url": request.image.data_uri}})
    messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
    if request.answered is not None:
        messages.append({"role": "assistant", "content": request.answered})
    if system is not None:
        messages.insert(0, {"role": config.system_role, "content": system})
    body: dict[str, Any] = {
        **config.extra_body,
        "model": config.model,
        "messages": messages,
        config.max_tokens_field: decoding.max_new_tokens + config.reasoning_tokens,
    }
    if config.send_temperature:
        body["temperature"] = decoding.temperature
        if decoding.temperature > 0:
            body |= {"top_p": decoding.top_p, "seed": request.decoded_by(decoding).seed}
    if request.schema is not None and keeps_schema:
        body |= _response_format(config, request.schema)
    if request.choice is not None:
        body |= {"logprobs": True, "top_logprobs": _ALTERNATIVES}
    if request.prefill:  # as vLLM has it; OpenAI itself has no such thing
        messages.append({"role": "assistant", "content": request.prefill})
        body |= {"continue_final_message": True, "add_generation_prompt": False}
    return body


def _response_format(config: OpenAIConfig, schema: str) -> dict[str, Any]:
    match config.response_format:
        case "json_schema":
            named = {"name": "verdict", "strict": True, "schema": json.loads(schema)}
            return {"response_format": {"type": "json_schema", "json_schema": named}}
        case "json_object":
            return {"response_format": {"type": "json_object"}}
        case "none":
            return {}


def _read_generation(response: "httpx2.Response", choice: Choice | None = None) -> Generation:
    body = _json(response)
    try:
        first = body["choices"][0]
        message, reason = first["message"], first["finish_reason"]
        text = _text(message["content"])
        usage = body.get("usage") or {}
        lengths = [usage.get(name) or 0 for name in ("prompt_tokens", "completion_tokens")]
        probabilities = None if choice is None else _probabilities(first, choice)
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise GeneratorUnavailable(
            f"{response.url}: not an answer as OpenAI's are ({error}): {response.text[:300]!r}"
        ) from error
    if reason not in ("stop", "length"):
        raise RequestRejected(f"{response.url}: the answer ended by {reason!r}")
    if text is None:  # OpenAI puts a refusal to keep to a schema into a field of its own
        text = message.get("refusal")
    if not isinstance(text, str):
        spent = (
            "; all its tokens went into reasoning: raise reasoning_tokens"
            if reason == "length"
            else ""
        )
        raise RequestRejected(f"{response.url}: the answer has no text: {text!r}{spent}")
    if (place := half_character(text)) is not None:
        raise RequestRejected(
            f"{response.url}: the answer has half of a character at place {place}"
        )
    return Generation(
        text=text,
        prompt_tokens=lengths[0],
        completion_tokens=lengths[1],
        finish_reason=reason,
        probabilities=probabilities,
    )


def _text(content: Any) -> str | None:
    """The text of a message, which some servers give in parts; parts that are no text, such as reasoning, are left out."""
    if not isinstance(content, list):
        return content
    return "".join(part["text"] for part in content if part.get("type") in ("text", "output_text"))


def _probabilities(choice: Any, wanted: Choice) -> dict[str, float] | None:
    """Of the words, from the alternatives to the token in which one of them begins; None where a server gives none."""
    words = {word.casefold(): word for word in wanted.words}
    said = ""
    for token in (choice.get("logprobs") or {}).get("content") or []:
        begun = token["token"].strip().casefold()
        after = said.rstrip().endswith(wanted.after.casefold())
        said += token["token"].casefold()
        if not (begun and after and any(word.startswith(begun) for word in words)):
            continue
        mass = dict.fromkeys(wanted.words, 0.0)
        for other in token.get("top_logprobs") or []:
            start = other["token"].strip().casefold()
            meant = [name for word, name in words.items() if start and word.startswith(start)]
            if len(meant) == 1:  # a token in which several words begin tells none of them
                mass[meant[0]] += math.exp(other["logprob"])
        total = sum(mass.values())
        return {word: share / total for word, share in mass.items()} if total else None
    return None


def _json(response: "httpx2.Response") -> dict[str, Any]:
    try:
        body = response.json()
    except ValueError as error:
        raise GeneratorUnavailable(f"{response.url}: not JSON: {response.text[:300]!r}") from error
    if not isinstance(body, dict):
        raise GeneratorUnavailable(f"{response.url}: not a JSON object: {response.text[:300]!r}")
    return body


def _message(response: "httpx2.Response") -> str:
    """The error message in OpenAI's shape, else the start of the body."""
    try:
        return str(response.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return response.text[:300]
