"""The HTTP interface as one FastAPI app over a `Service`. Imports neither ray nor torch.

Everything under /v1 needs a bearer token; /healthz, the pages and their scripts hold nothing secret and need none.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fastapi import Depends, FastAPI, Request, Security
from fastapi.responses import FileResponse
from fastapi.security import HTTPBearer
from starlette.staticfiles import StaticFiles

from safemirage.config.serve import LimitsConfig
from serve_app.audit import Audit
from serve_app.batches import Files
from serve_app.http.admission import Admission
from serve_app.http.answers import describe
from serve_app.http.auth import Authentication, Caller, Tokens, caller_of, needs
from serve_app.http.bodies import BodyLimit
from serve_app.http.desk import Desk
from serve_app.http.errors import install_error_handlers
from serve_app.http.observed import Counts, Metrics, Observed, operator_routes
from serve_app.http.openai import ChatBody, CompletionBody, ModerationBody, ResponsesBody
from serve_app.http.routes.batches import BatchBody, batch_routes
from serve_app.http.routes.chat import chat_routes
from serve_app.http.routes.evaluations import evaluation_routes
from serve_app.http.routes.judgements import judgement_routes
from serve_app.http.routes.responses import response_routes
from serve_app.http.routes.studies import study_routes
from serve_app.http.schemas import EvaluationBody, JudgementItem, JudgementsBody, SampleBody
from serve_app.preflight import Finding
from serve_app.resources import ModelCard
from serve_app.service import Service

BODIES = (
    BatchBody,
    ChatBody,
    CompletionBody,
    ResponsesBody,
    ModerationBody,
    JudgementsBody,
    JudgementItem,
    EvaluationBody,
    SampleBody,
)
PAGES = Path(__file__).parents[1] / "pages"
_PAGE_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}


@dataclass(frozen=True, kw_only=True)
class ApiSettings:
    tokens: Tokens | None = None
    """The tokens that are let in; None: no authentication, for a service that only this machine can reach."""
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    events_poll_s: float = 0.25
    """How often a progress stream looks for a change."""
    instance: str = ""
    """Shown by /healthz: tells one service from another on the same port."""
    restricted: Sequence[str] = ()
    """Models whose answers only the scope `unredacted` may see."""
    moderation: str = "refusal_rules"
    """The judge of /v1/moderations where a request names none."""
    follows_schemas: bool = False
    """Whether the engine can be bound to a JSON schema."""
    audit: Audit = field(default_factory=lambda: Audit(None))
    files: Files | None = None
    """Where uploaded files and batches lie; None: there are no batches."""
    counts: Counts | None = None
    """What the runner of evaluations counts."""
    findings: Sequence[Finding] = ()
    """What the check at the start found, for /readyz."""


def create_api(service: Service, settings: ApiSettings) -> FastAPI:
    """The app. Its errors, also those of the framework, have OpenAI's shape."""
    app = FastAPI(
        title="safemirage",
        version=version("safemirage"),
        description="Asks, judges and evaluates vision-language models. Chat is OpenAI-compatible.",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    admission, metrics = Admission(settings.limits), Metrics()
    desk = Desk(
        service,
        admission,
        restricted=settings.restricted,
        follows_schemas=settings.follows_schemas,
        audit=settings.audit,
        metrics=metrics,
    )
    secured = [
        Security(HTTPBearer(auto_error=False))
    ]  # for the OpenAPI page; the middleware checks
    for router in (
        chat_routes(desk, admission),
        response_routes(desk, admission),
        judgement_routes(service, desk, metrics, settings.moderation),
        evaluation_routes(service, admission, desk, settings.audit, settings.events_poll_s),
        study_routes(service),
        *([batch_routes(settings.files, admission, settings.audit)] if settings.files else []),
    ):
        app.include_router(router, dependencies=secured)
    _add_catalogue(app, service, secured)
    app.include_router(
        operator_routes(
            metrics,
            settings.tokens,
            settings.findings,
            lambda: service.is_ready(),
            _gauges(metrics, admission, service, settings.counts),
        )
    )
    _add_pages(app, settings.instance)
    describe(app, BODIES)
    install_error_handlers(app)
    app.add_middleware(BodyLimit, limits=settings.limits)
    app.add_middleware(Authentication, tokens=settings.tokens, audit=settings.audit)
    app.add_middleware(Observed, metrics=metrics)
    return app


def _gauges(
    metrics: Metrics, admission: Admission, service: Service, counts: Counts | None
) -> Callable[[], Awaitable[None]]:
    """Brings up to date what is not counted as it happens."""

    async def update() -> None:
        metrics.queue_requests.set(admission.requests)
        metrics.queue_tokens.set(admission.tokens)
        for state, count in (await service.states()).items():
            metrics.evaluations.labels(state).set(count)
        for kind, value in (await counts() if counts else {}).items():
            metrics.samples.labels(kind).set(value)

    return update


def _add_catalogue(app: FastAPI, service: Service, secured: list[Any]) -> None:
    readers = [*secured, Depends(needs("read"))]

    @app.get("/v1/models", tags=["catalogue"], dependencies=readers)
    async def models(http: Request) -> dict[str, Any]:
        """The exports in storage, each with the digest of its weights, and the judges."""
        cards = [_card(card, caller_of(http)) for card in await service.models()]
        return {
            "object": "list",
            "data": cards,
            "judges": [asdict(card) for card in service.judges()],
        }

    @app.get("/v1/models/{model_id}", tags=["catalogue"], dependencies=readers)
    async def model(http: Request, model_id: str) -> dict[str, Any]:
        return _card(await service.model(model_id), caller_of(http))

    @app.get("/v1/suites", tags=["catalogue"], dependencies=readers)
    async def suites(http: Request) -> dict[str, Any]:
        """The suites in storage, with the number of samples of each condition."""
        caller = caller_of(http)
        cards = [_known_to(caller, asdict(card)) for card in await service.suites()]
        return {"object": "list", "data": cards}


def _card(card: ModelCard, caller: Caller) -> dict[str, Any]:
    return _known_to(caller, {**asdict(card), "object": "model", "owned_by": "safemirage"})


def _known_to(caller: Caller, card: dict[str, Any]) -> dict[str, Any]:
    """Why something is broken is for those who can mend it."""
    return card if caller.may("admin") or card["problem"] is None else {**card, "problem": "broken"}


def _add_pages(app: FastAPI, instance: str) -> None:
    @app.get("/healthz", tags=["pages"])
    async def healthz() -> dict[str, str]:
        """Answers while the service is alive; needs no token and asks no model."""
        return {"status": "ok", "version": version("safemirage"), "instance": instance}

    @app.get("/", include_in_schema=False)
    async def dashboard() -> FileResponse:
        return FileResponse(PAGES / "index.html", headers=_PAGE_HEADERS)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> FileResponse:
        return FileResponse(PAGES / "docs.html", headers=_PAGE_HEADERS)

    app.mount("/static", StaticFiles(directory=PAGES), name="static")
