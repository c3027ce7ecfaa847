"""Clients of the evaluation service: submit, follow, fetch.

    with EvaluationClient("http://127.0.0.1:8000", token) as client:
        evaluation = client.run({"model": "npo-1a2b3c4d5e6f", "suite": "miniature-test", "judges": ["oracle"]})
    evaluation["rows"]

`AsyncEvaluationClient` has the same methods, to be awaited. Both wait out a service that restarts.
"""

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Literal, Self, TypedDict

import httpx
from anyio.from_thread import BlockingPortal, start_blocking_portal
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception_type,
    retry_if_result,
    stop_after_delay,
    wait_exponential,
)

from safemirage.config.loading.identity import digest_of
from safemirage.evaluation.errors import EvaluationError
from safemirage.store.evaluations import TERMINAL

_BUSY = frozenset({429, 502, 503, 504})
_GROWING = wait_exponential(multiplier=0.25, max=10)
_PATIENCE_S = 600.0
"""How long a service that cannot be reached is waited for; a restart on a cluster takes minutes."""
_LOG = logging.getLogger(__name__)


class Progress(TypedDict):
    done: int
    """Samples answered and judged."""
    total: int


class EvaluationView(TypedDict):
    """An evaluation as the service shows it."""

    id: str
    state: Literal["queued", "running", "finished", "failed", "cancelled"]
    model: str
    suite: str | None
    owner: str
    judges: list[str]
    protocol: str
    progress: Progress
    rows: list[dict[str, Any]]
    """The table, once it is finished."""
    error: str | None
    created_at: str
    updated_at: str


OnProgress = Callable[[EvaluationView], None]


class AsyncEvaluationClient:
    """Submitting is idempotent: the same body is the same evaluation, so a client that was cut off starts anew."""

    def __init__(
        self,
        url: str,
        token: str | None = None,
        *,
        timeout_s: float = 60,
        patience_s: float = _PATIENCE_S,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._patience_s = patience_s
        self._http = httpx.AsyncClient(
            base_url=url, headers=headers, timeout=timeout_s, transport=transport
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._http.aclose()

    async def submit(self, body: Mapping[str, Any]) -> EvaluationView:
        """Queues an evaluation, or finds the one that this body already made."""
        key = {"Idempotency-Key": digest_of(dict(body))}
        found: EvaluationView = await self._call(
            "POST", "/v1/evaluations", json=dict(body), headers=key
        )
        return found

    async def get(self, evaluation_id: str) -> EvaluationView:
        found: EvaluationView = await self._call("GET", f"/v1/evaluations/{evaluation_id}")
        return found

    async def cancel(self, evaluation_id: str) -> EvaluationView:
        """Ends an evaluation of one's own; what it has answered stays in the store."""
        found: EvaluationView = await self._call("DELETE", f"/v1/evaluations/{evaluation_id}")
        return found

    async def samples(
        self, evaluation_id: str, *, unredacted: bool = False, page: int = 100
    ) -> AsyncIterator[dict[str, Any]]:
        """The samples with their answers and verdicts, by position; those that are stored so far."""
        offset: int | None = 0
        while offset is not None:
            found = await self._call(
                "GET",
                f"/v1/evaluations/{evaluation_id}/samples",
                params={"limit": page, "offset": offset, "unredacted": unredacted},
            )
            for sample in found["data"]:
                yield sample
            offset = found["next_offset"]

    async def events(self, evaluation_id: str) -> AsyncIterator[EvaluationView]:
        """The evaluation at each change, up to its end. A stream that breaks off is taken up again."""
        patience = time.monotonic() + self._patience_s
        path = f"/v1/evaluations/{evaluation_id}/events"
        while True:
            # Asked plainly first: what the service refuses is refused here too, and outages are waited out.
            evaluation = await self.get(evaluation_id)
            yield evaluation
            if evaluation["state"] in TERMINAL:
                return
            try:
                async with self._http.stream("GET", path) as response:
                    async for line in response.aiter_lines():
                        if line.startswith("data: "):
                            evaluation = json.loads(line.removeprefix("data: "))
                            patience = time.monotonic() + self._patience_s
                            yield evaluation
                            if evaluation["state"] in TERMINAL:
                                return
            except httpx.TransportError as error:
                _LOG.info("%s: %s; followed again", path, error)
            if time.monotonic() > patience:
                raise EvaluationError(f"{path}: nothing new for {self._patience_s:g} s")
            await asyncio.sleep(0.5)

    async def run(
        self,
        body: Mapping[str, Any],
        *,
        on_progress: OnProgress | None = None,
        poll_s: float = 0.5,
        timeout_s: float = 3600,
    ) -> EvaluationView:
        """Submits and waits for the end.

        Raises:
            EvaluationError: it was refused, failed, was cancelled, or did not end within `timeout_s`.
        """
        evaluation = await self.submit(body)
        deadline = time.monotonic() + timeout_s
        while evaluation["state"] not in TERMINAL:
            if time.monotonic() > deadline:
                raise EvaluationError(
                    f"evaluation {evaluation['id']}: not finished after {timeout_s:g} s"
                )
            await asyncio.sleep(poll_s)
            evaluation = await self.get(evaluation["id"])
            if on_progress:
                on_progress(evaluation)
        if evaluation["state"] != "finished":
            raise EvaluationError(
                f"evaluation {evaluation['id']} {evaluation['state']}: {evaluation.get('error') or 'no reason given'}"
            )
        return evaluation

    async def _call(self, method: str, path: str, **options: Any) -> Any:
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(httpx.TransportError) | retry_if_result(_is_busy),
            stop=stop_after_delay(self._patience_s),
            wait=_wait_s,
            retry_error_callback=lambda last: last.outcome and last.outcome.result(),
        )
        try:
            response: httpx.Response = await retrying(self._http.request, method, path, **options)
        except httpx.TransportError as error:
            raise EvaluationError(f"{method} {path}: {error}") from error
        return _body(response)


class EvaluationClient:
    """The same for code that does not await. Its calls may come from any thread, a notebook's too."""

    def __init__(
        self,
        url: str,
        token: str | None = None,
        *,
        timeout_s: float = 60,
        patience_s: float = _PATIENCE_S,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._stack = ExitStack()
        # An event loop in a thread of its own: the caller's thread may have one already, which is busy here.
        self._portal: BlockingPortal = self._stack.enter_context(start_blocking_portal())
        self._client = AsyncEvaluationClient(
            url, token, timeout_s=timeout_s, patience_s=patience_s, transport=transport
        )
        self._stack.enter_context(self._portal.wrap_async_context_manager(self._client))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def submit(self, body: Mapping[str, Any]) -> EvaluationView:
        """Queues an evaluation, or finds the one that this body already made."""
        return self._portal.call(self._client.submit, body)

    def get(self, evaluation_id: str) -> EvaluationView:
        return self._portal.call(self._client.get, evaluation_id)

    def cancel(self, evaluation_id: str) -> EvaluationView:
        """Ends an evaluation of one's own; what it has answered stays in the store."""
        return self._portal.call(self._client.cancel, evaluation_id)

    def samples(
        self, evaluation_id: str, *, unredacted: bool = False, page: int = 100
    ) -> Iterator[dict[str, Any]]:
        """The samples with their answers and verdicts, by position; those that are stored so far."""
        found = self._client.samples(evaluation_id, unredacted=unredacted, page=page)
        return self._stepped(found)

    def events(self, evaluation_id: str) -> Iterator[EvaluationView]:
        """The evaluation at each change, up to its end. A stream that breaks off is taken up again."""
        return self._stepped(self._client.events(evaluation_id))

    def run(
        self,
        body: Mapping[str, Any],
        *,
        on_progress: OnProgress | None = None,
        poll_s: float = 0.5,
        timeout_s: float = 3600,
    ) -> EvaluationView:
        """Submits and waits for the end. Raises EvaluationError as the async client does."""

        async def run() -> EvaluationView:
            return await self._client.run(
                body, on_progress=on_progress, poll_s=poll_s, timeout_s=timeout_s
            )

        return self._portal.call(run)

    def _stepped(self, found: AsyncIterator[Any]) -> Iterator[Any]:
        async def step() -> Any:
            return await anext(found, None)

        while (one := self._portal.call(step)) is not None:
            yield one


def _body(response: httpx.Response) -> Any:
    if response.is_success:
        return response.json()
    try:
        message = response.json()["error"]["message"]
    except (ValueError, KeyError, TypeError):
        message = response.text[:500]
    raise EvaluationError(
        f"{response.request.method} {response.request.url.path}: {response.status_code}: {message}"
    )


def _is_busy(response: httpx.Response) -> bool:
    return response.status_code in _BUSY


def _wait_s(state: RetryCallState) -> float:
    """The seconds that the service names; else they double from a quarter on."""
    if state.outcome is not None and not state.outcome.failed:
        named: str = state.outcome.result().headers.get("Retry-After", "")
        if named.isdecimal():
            return float(named)
    return _GROWING(state)
