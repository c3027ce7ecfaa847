"""The HTTP interface as one FastAPI app over a `Service`. Imports neither ray nor torch.

Everything under /v1 needs a bearer token; /healthz, the pages and their scripts hold nothing secret and need none.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Security
from fastapi.responses import FileResponse
from fastapi.security import HTTPBearer
from starlette.staticfiles import StaticFiles

from safemirage.config.serve import LimitsConfig
from serve_app.http.admission import Admission
from serve_app.http.auth import Authentication, TokenDigest
from serve_app.http.bodies import BodyLimit, describe_bodies
from serve_app.http.errors import install_error_handlers
from serve_app.http.routes.chat import chat_routes
from serve_app.http.routes.evaluations import evaluation_routes
from serve_app.http.routes.judgements import judgement_routes
from serve_app.http.routes.studies import study_routes
from serve_app.http.schemas import (
    ChatBody,
    EvaluationBody,
    JudgementItem,
    JudgementsBody,
    SampleBody,
)
from serve_app.service import Service

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
    tokens: Sequence[TokenDigest] | None = None
    """The tokens that are let in; None: no authentication, for a service that only this machine can reach."""
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    events_poll_s: float = 0.25
    """How often a progress stream looks for a change."""
    instance: str = ""
    """Shown by /healthz: tells one service from another on the same port."""


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
    admission = Admission(settings.limits)
    secured = [
        Security(HTTPBearer(auto_error=False))
    ]  # for the OpenAPI page; the middleware checks
    for router in (
        chat_routes(service, admission),
        judgement_routes(service, admission),
        evaluation_routes(service, admission, settings.events_poll_s),
        study_routes(service),
    ):
        app.include_router(router, dependencies=secured)
    _add_catalogue(app, service, secured)
    _add_pages(app, settings.instance)
    describe_bodies(app, (ChatBody, JudgementsBody, JudgementItem, EvaluationBody, SampleBody))
    install_error_handlers(app)
    app.add_middleware(BodyLimit, limits=settings.limits)
    app.add_middleware(Authentication, tokens=settings.tokens)
    return app


def _add_catalogue(app: FastAPI, service: Service, secured: list[Any]) -> None:
    @app.get("/v1/models", tags=["catalogue"], dependencies=secured)
    async def models() -> dict[str, Any]:
        """The exports in storage, each with the digest of its weights, and the judges."""
        cards = [
            {**asdict(card), "object": "model", "owned_by": "safemirage"}
            for card in await service.models()
        ]
        return {
            "object": "list",
            "data": cards,
            "judges": [asdict(card) for card in service.judges()],
        }

    @app.get("/v1/models/{model_id}", tags=["catalogue"], dependencies=secured)
    async def model(model_id: str) -> dict[str, Any]:
        card = await service.model(model_id)
        return {**asdict(card), "object": "model", "owned_by": "safemirage"}

    @app.get("/v1/suites", tags=["catalogue"], dependencies=secured)
    async def suites() -> dict[str, Any]:
        """The suites in storage, with the number of samples of each condition."""
        return {"object": "list", "data": [asdict(card) for card in await service.suites()]}


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
