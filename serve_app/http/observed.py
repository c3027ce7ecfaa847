"""What the service tells its operators: Prometheus metrics of its own, a JSON line a request, readiness.

None of it holds a word of a question or an answer. /metrics needs the scope `read`; /readyz needs no token, as probes have
none.
"""

import json
import logging
import re
import sys
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import generate_latest
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_app.http.auth import Tokens, bearer
from serve_app.preflight import Finding

_LOG = logging.getLogger("safemirage.requests")
_GIVEN_ID = re.compile(r"[A-Za-z0-9._-]{1,100}")
_SECONDS = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
Counts = Callable[[], Awaitable[Mapping[str, float]]]
"""Gives what the runner of evaluations counts: kind of samples -> how many."""


class Metrics:
    """The counters of one replica of the API."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        own: dict[str, Any] = {"registry": self.registry, "namespace": "safemirage"}
        self.requests = Counter(
            "requests", "Requests by route and status.", ["route", "status"], **own
        )
        self.seconds = Histogram(
            "request_seconds", "From head to last byte.", ["route"], buckets=_SECONDS, **own
        )
        self.tokens = Counter("tokens", "Tokens of prompts and of answers.", ["kind"], **own)
        self.rows = Histogram(
            "batch_rows", "Answers in the making beside each, as it ended.", buckets=_ROWS, **own
        )
        self.unscored = Counter("unscored", "Answers that a judge gave no verdict on.", **own)
        self.queue_requests = Gauge("queue_requests", "Requests worked on or waiting.", **own)
        self.queue_tokens = Gauge("queue_tokens", "Tokens of work done or waiting.", **own)
        self.evaluations = Gauge("evaluations", "Evaluations by state.", ["state"], **own)
        self.samples = Gauge(
            "evaluation_samples",
            "Samples of evaluations since their replica started: asked of a model, known to the store, unscored.",
            ["kind"],
            **own,
        )

    def text(self) -> bytes:
        return generate_latest(self.registry)


class Observed:
    """ASGI middleware, the outermost: gives each request an id, counts it, and writes its line."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = dict(scope["headers"]).get(b"x-request-id", b"").decode("latin-1")
        request_id = given if _GIVEN_ID.fullmatch(given) else uuid.uuid4().hex
        begun, status = time.monotonic(), 499  # nobody waited for the answer

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-Id"] = request_id
            await send(message)

        try:
            await self.app(scope, receive, sending)
        finally:
            route = _route(scope)
            seconds = time.monotonic() - begun
            self.metrics.requests.labels(route, str(status)).inc()
            self.metrics.seconds.labels(route).observe(seconds)
            caller = scope.get("state", {}).get("caller")
            line = {
                "request_id": request_id,
                "method": scope["method"],
                "route": route,
                "status": status,
                "seconds": round(seconds, 4),
                "caller": caller.name if caller is not None else None,
            }
            _LOG.info("request", extra={"fields": line})


def _route(scope: Scope) -> str:
    """The route's pattern: paths hold names that callers chose, and would be as many metrics."""
    route = scope.get("route")
    return str(getattr(route, "path", "other"))


class JsonLines(logging.Formatter):
    """A JSON object a record. An exception is told by its kind: its text may quote a question."""

    def format(self, record: logging.LogRecord) -> str:
        tree = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info and record.exc_info[0] is not None:
            tree["exception"] = record.exc_info[0].__name__
            tree["at"] = _places(record.exc_info[2])
        return json.dumps(tree, ensure_ascii=True)


def _places(trace: Any) -> list[str]:
    """Where an exception passed, by file and line."""
    found = []
    while trace is not None:
        code = trace.tb_frame.f_code
        found.append(f"{code.co_filename.rpartition('/')[2]}:{trace.tb_lineno}")
        trace = trace.tb_next
    return found[-8:]


def log_json() -> None:
    """Makes this process's own log lines JSON, on its standard output."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonLines())
    for name in ("safemirage", "serve_app"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.INFO)


def operator_routes(
    metrics: Metrics,
    tokens: Tokens | None,
    findings: Sequence[Finding],
    is_ready: Callable[[], Awaitable[Mapping[str, bool]]],
    before: Callable[[], Awaitable[None]],
) -> APIRouter:
    """`before` brings the gauges up to date."""
    router = APIRouter(tags=["operation"])

    @router.get("/readyz")
    async def readyz() -> Response:
        """Whether the service can work, and what it found of what it stands on when it started. 503 while it cannot."""
        parts = await is_ready()
        ready = all(parts.values())
        tree = {
            "status": "ready" if ready else "not ready",
            "parts": dict(parts),
            "checks": [
                {"what": one.what, "fine": one.fine, "found": one.found} for one in findings
            ],
        }
        return JSONResponse(tree, status_code=200 if ready else 503)

    @router.get("/metrics")
    async def scrape(http: Request) -> Response:
        """Prometheus metrics of this replica. Needs a token with the scope `read`."""
        bearer(http.headers, tokens).require("read")
        await before()
        return Response(metrics.text(), media_type=CONTENT_TYPE_LATEST)

    return router
