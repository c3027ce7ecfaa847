"""A client of the evaluation service: submit, follow, fetch.

client = EvaluationClient("http://127.0.0.1:8000", token)
evaluation = client.run({"model": "npo-1a2b3c4d5e6f", "suite": "miniature-test", "judges": ["oracle"]})
evaluation["rows"]
"""

import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

import httpx

from safemirage.config.loading.identity import digest_of
from safemirage.evaluation.errors import EvaluationError
from safemirage.store.evaluations import TERMINAL


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

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
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
        for attempt in range(5):
            try:
                response = self._http.request(method, path, **options)
            except httpx.TransportError as error:
                if attempt == 4:
                    raise EvaluationError(f"{method} {path}: {error}") from error
                time.sleep(2**attempt / 4)
                continue
            if response.status_code not in {429, 502, 503, 504} or attempt == 4:
                return self._body(response)
            time.sleep(float(response.headers.get("Retry-After", 2**attempt / 4)))
        raise AssertionError("the last attempt returns or raises")

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
