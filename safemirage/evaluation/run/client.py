"""A client of the evaluation service: submit, follow, fetch.

client = EvaluationClient("http://127.0.0.1:8000", token)
evaluation = client.run({"model": "npo-1a2b3c4d5e6f", "suite": "miniature-test", "judges": ["oracle"]})
evaluation["rows"]
"""

import time
from collections.abc import Callable, Mapping
from typing import Any, Self

import httpx
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    retry_if_result,
    stop_after_attempt,
    wait_exponential,
)

from safemirage.config.loading.identity import digest_of
from safemirage.evaluation.errors import EvaluationError
from safemirage.store.evaluations import TERMINAL

_ATTEMPTS = 5
_BUSY = frozenset({429, 502, 503, 504})
_GROWING = wait_exponential(multiplier=0.25)


class EvaluationClient:
    """Submitting is idempotent: the same body is the same evaluation, so a client that was cut off starts anew."""

    def __init__(
        self,
        url: str,
        token: str | None = None,
        *,
        timeout_s: float = 60,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._http = httpx.Client(
            base_url=url, headers=headers, timeout=timeout_s, transport=transport
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self._http.close()

    def submit(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Queues an evaluation, or finds the one that this body already made."""
        return self._call(
            "POST",
            "/v1/evaluations",
            json=dict(body),
            headers={"Idempotency-Key": digest_of(dict(body))},
        )

    def get(self, evaluation_id: str) -> dict[str, Any]:
        return self._call("GET", f"/v1/evaluations/{evaluation_id}")

    def run(
        self,
        body: Mapping[str, Any],
        *,
        on_progress: Callable[[dict[str, Any]], None] | None = None,
        poll_s: float = 0.5,
        timeout_s: float = 3600,
    ) -> dict[str, Any]:
        """Submits and waits for the end.

        Raises:
            EvaluationError: it was refused, failed, was cancelled, or did not end within `timeout_s`.
        """
        evaluation = self.submit(body)
        deadline = time.monotonic() + timeout_s
        while evaluation["state"] not in TERMINAL:
            if time.monotonic() > deadline:
                raise EvaluationError(
                    f"evaluation {evaluation['id']}: not finished after {timeout_s:g} s"
                )
            time.sleep(poll_s)
            evaluation = self.get(evaluation["id"])
            if on_progress:
                on_progress(evaluation)
        if evaluation["state"] != "finished":
            raise EvaluationError(
                f"evaluation {evaluation['id']} {evaluation['state']}: {evaluation.get('error') or 'no reason given'}"
            )
        return evaluation

    def _call(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        retrying = Retrying(
            retry=retry_if_exception_type(httpx.TransportError) | retry_if_result(_is_busy),
            stop=stop_after_attempt(_ATTEMPTS),
            wait=_wait_s,
            retry_error_callback=lambda last: last.outcome and last.outcome.result(),
        )
        try:
            response = retrying(self._http.request, method, path, **options)
        except httpx.TransportError as error:
            raise EvaluationError(f"{method} {path}: {error}") from error
        return self._body(response)

    def _body(self, response: httpx.Response) -> dict[str, Any]:
        if response.is_success:
            body: dict[str, Any] = response.json()
            return body
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
