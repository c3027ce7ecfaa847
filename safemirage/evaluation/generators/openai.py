"""A generator behind any OpenAI-compatible URL: this project's service, vLLM, hosted models.

This project's service, known by the weights' digest that it reports, keeps control tokens in texts text. For any other
server they are disarmed before they are sent (`safemirage.text.control_words`). Images go as PNG of their pixels.

Transport errors, 408, 429 and 5xx are tried again with growing waits; a request that the service finds wrong is
RequestRejected; everything else (no access, no such model, an answer that cannot be read) is GeneratorUnavailable.
"""

import asyncio
import os
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Literal, Self

import httpx

from safemirage.config.evaluate import DecodingConfig, OpenAIConfig
from safemirage.evaluation.generators import GeneratorUnavailable, RequestRejected
from safemirage.evaluation.run.cache_keys import EVALUATION_SCOPE
from safemirage.evaluation.types import Generation, Request
from safemirage.models.images import ImageError
from safemirage.text.characters import half_character
from safemirage.text.control_words import disarmed

_REJECTED = frozenset({400, 413, 415, 422})
_AGAIN = frozenset({408, 429})
_LONGEST_WAIT_S = 60.0
_PROBE_TIMEOUT_S = 5.0
_LISTED = 8
_REPORTED = ("weights_digest", "processor_digest", "engine", "engine_version", "dtype")
Sleep = Callable[[float], Awaitable[None]]


class OpenAIGenerator:
    """async with OpenAIGenerator(config) as generator: ...

    On entry /models is read: a `weights_digest` there becomes the generator's key.
    """

    def __init__(
        self,
        config: OpenAIConfig,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._config = config
        self._http = httpx.AsyncClient(
            base_url=config.url.rstrip("/") + "/",
            headers=_headers(config),
            timeout=config.timeout_s,
            transport=transport,
        )
        self._free = asyncio.Semaphore(config.concurrency)
        self._sleep = sleep
        self._reported: dict[str, str] = {}

    async def __aenter__(self) -> Self:
        try:
            self._reported = await self._read_card()
        except BaseException:
            await self._http.aclose()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._http.aclose()

    @property
    def key(self) -> Mapping[str, str]:
        key = {"client": "openai", "model": self._config.model}
        if self._config.revision is not None:
            key["revision"] = self._config.revision
        if "weights_digest" in self._reported:
            return {**{name: key[name] for name in key if name != "model"}, **self._reported}
        key["url"] = self._config.url
        return key if self._config.revision is not None else {**key, "scope": EVALUATION_SCOPE}

    async def generate(
        self, requests: Sequence[Request], decoding: DecodingConfig
    ) -> list[Generation]:
        tasks = [asyncio.ensure_future(self._answer(request, decoding)) for request in requests]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:  # after a failure the others need not go on
                task.cancel()

    async def _answer(self, request: Request, decoding: DecodingConfig) -> Generation:
        if "weights_digest" not in self._reported:
            request = _disarmed(request)
        async with self._free:
            try:  # in a thread: a large image takes a while to encode
                body = await asyncio.to_thread(_body, self._config.model, request, decoding)
            except ImageError as error:
                raise RequestRejected(str(error)) from error
            return _read_generation(await self._send("POST", "chat/completions", json=body))

    async def _read_card(self) -> dict[str, str]:
        """What the service says of the model; nothing where it has no such list."""
        try:
            response = await self._send("GET", "models")
        except RequestRejected:
            return {}
        except _NotFound:
            return {}
        cards = _json(response).get("data")
        for card in cards if isinstance(cards, list) else []:
            if isinstance(card, dict) and card.get("id") == self._config.model:
                return {name: card[name] for name in _REPORTED if isinstance(card.get(name), str)}
        return {}

    async def _send(self, method: str, path: str, **options: Any) -> httpx.Response:
        """A response that is a success. Raises RequestRejected or GeneratorUnavailable."""
        where = f"{method} {self._http.base_url}{path}"
        problem = ""
        for attempt in range(self._config.attempts):
            wait_s = self._config.backoff_s * 2**attempt * random.uniform(0.5, 1.0)
            try:
                response = await self._http.request(method, path, **options)
            except httpx.TransportError as error:
                problem = f"{type(error).__name__}: {error}"
            else:
                if response.is_success:
                    return response
                problem = f"{response.status_code}: {_message(response)}"
                _raise_if_final(response, f"{where}: {problem}")
                wait_s = _retry_after_s(response) or wait_s
            if attempt + 1 < self._config.attempts:
                await self._sleep(min(wait_s, _LONGEST_WAIT_S))
        raise GeneratorUnavailable(f"{where}: {problem} (tried {self._config.attempts} times)")


@dataclass(frozen=True)
class MissingService:
    """What is wrong with a model behind a URL, and which field of its config says so."""

    field: Literal["url", "model", "api_key_env"]
    text: str


def missing_service(config: OpenAIConfig) -> MissingService | None:
    """What keeps the model from being asked, found out by one short request; None where nothing does.

    A service that has no list of models, or lists none, is not asked which it has.
    """
    url = config.url.rstrip("/") + "/models"
    try:
        response = httpx.get(url, headers=_headers(config), timeout=_PROBE_TIMEOUT_S)
    except (httpx.TransportError, httpx.InvalidURL) as error:
        why = str(error) or type(error).__name__
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


def _served(response: httpx.Response) -> list[str]:
    """The ids in a service's list of models; empty where it has none."""
    try:
        return [str(card["id"]) for card in response.json()["data"]]
    except (ValueError, KeyError, TypeError):
        return []


def _headers(config: OpenAIConfig) -> dict[str, str]:
    token = os.environ.get(config.api_key_env)
    return {"Authorization": f"Bearer {token}"} if token else {}


class _NotFound(GeneratorUnavailable):
    """The URL, or the model there, does not exist."""


def _raise_if_final(response: httpx.Response, problem: str) -> None:
    status = response.status_code
    if status in _REJECTED:
        raise RequestRejected(problem)
    if status in {404, 405, 501}:
        raise _NotFound(problem)
    if status not in _AGAIN and status < 500:
        raise GeneratorUnavailable(problem)


def _disarmed(request: Request) -> Request:
    """The request with no text that a server may take for control tokens."""
    return replace(
        request,
        question=disarmed(request.question),
        system=None if request.system is None else disarmed(request.system),
        prefill=disarmed(request.prefill),
        answered=None if request.answered is None else disarmed(request.answered),
    )


def _body(model: str, request: Request, decoding: DecodingConfig) -> dict[str, Any]:
    content: list[dict[str, Any]] = [{"type": "text", "text": request.question}]
    if request.image is not None:
        content.insert(0, {"type": "image_url", "image_url": {"url": request.image.data_uri}})
    messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
    if request.answered is not None:
        messages.append({"role": "assistant", "content": request.answered})
    if request.system is not None:
        messages.insert(0, {"role": "system", "content": request.system})
    body: dict[str, Any] = {
        "model": model,
        "messages": messages,
        "max_tokens": decoding.max_new_tokens,
        "temperature": decoding.temperature,
    }
    if decoding.temperature > 0:
        body |= {"top_p": decoding.top_p, "seed": request.decoded_by(decoding).seed}
    if request.prefill:  # as vLLM has it; OpenAI itself has no such thing
        messages.append({"role": "assistant", "content": request.prefill})
        body |= {"continue_final_message": True, "add_generation_prompt": False}
    return body


def _read_generation(response: httpx.Response) -> Generation:
    body = _json(response)
    try:
        choice = body["choices"][0]
        text, reason = choice["message"]["content"], choice["finish_reason"]
        prompt_tokens = body["usage"]["prompt_tokens"]
        completion_tokens = body["usage"]["completion_tokens"]
    except (KeyError, IndexError, TypeError) as error:
        raise GeneratorUnavailable(
            f"{response.url}: the answer has no {error} where OpenAI's has it: {response.text[:300]!r}"
        ) from error
    if reason not in ("stop", "length"):
        raise RequestRejected(f"{response.url}: the answer ended by {reason!r}")
    if not isinstance(text, str):
        raise RequestRejected(f"{response.url}: the answer has no text: {text!r}")
    if (place := half_character(text)) is not None:
        raise RequestRejected(
            f"{response.url}: the answer has half of a character at place {place}"
        )
    return Generation(
        text=text,
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        finish_reason=reason,
    )


def _json(response: httpx.Response) -> dict[str, Any]:
    try:
        body = response.json()
    except ValueError as error:
        raise GeneratorUnavailable(f"{response.url}: not JSON: {response.text[:300]!r}") from error
    if not isinstance(body, dict):
        raise GeneratorUnavailable(f"{response.url}: not a JSON object: {response.text[:300]!r}")
    return body


def _message(response: httpx.Response) -> str:
    """OpenAI's error message, else the start of the body."""
    try:
        return str(response.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return response.text[:300]


def _retry_after_s(response: httpx.Response) -> float | None:
    """Seconds that the service asks to wait; its other form, a date, is left to the backoff."""
    try:
        return max(0.0, float(response.headers["Retry-After"]))
    except (KeyError, ValueError):
        return None
