"""The two deployments around the checkpoints: Api answers HTTP, Evaluations works through the store."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fastapi import FastAPI
from ray.serve.handle import DeploymentHandle

from safemirage.config.generators import DecodingConfig
from safemirage.config.serve import ServeConfig
from safemirage.evaluation.generators.speech import ChatAnswer, Delta
from safemirage.evaluation.judges import Judged
from safemirage.evaluation.types import Request, Verdict
from safemirage.settings import Settings
from safemirage.storage import Storage
from safemirage.store import open_store
from safemirage.store.tokens import TokenFile, TokenRecord
from serve_app.audit import Audit
from serve_app.batches import BatchRunner, Files
from serve_app.engines.checkpoints import (
    ServedGenerator,
    called,
    open_served,
    reference_of,
    streamed,
)
from serve_app.evaluations import EvaluationRunner
from serve_app.http.admission import Admission
from serve_app.http.api import ApiSettings, create_api
from serve_app.http.auth import Tokens
from serve_app.http.desk import Desk
from serve_app.http.observed import log_json
from serve_app.http.routes.batches import Lines
from serve_app.judges import Judges
from serve_app.preflight import Finding
from serve_app.service import Service


class ServedEngines:
    """Models and judges over the Checkpoints deployment."""

    def __init__(
        self, checkpoints: DeploymentHandle[Any], config: ServeConfig, storage: Storage
    ) -> None:
        self._checkpoints = checkpoints
        self._exports = storage.exports
        self.judges = Judges(config.judges, self.open_model)

    async def open_model(self, model_id: str, owner: str) -> ServedGenerator:
        """The model of an export. Raises ExportError or GeneratorUnavailable."""
        return await open_served(self._checkpoints, self._exports, model_id, owner=owner)

    async def answer(
        self, model: str, request: Request, decoding: DecodingConfig, *, owner: str
    ) -> ChatAnswer:
        reference = reference_of(self._exports, model)
        answer: ChatAnswer = await called(
            self._checkpoints, reference, "answer", request, decoding, owner
        )
        return answer

    def stream(
        self, model: str, request: Request, decoding: DecodingConfig, *, owner: str
    ) -> AsyncIterator[Delta]:
        reference = reference_of(self._exports, model)
        return streamed(self._checkpoints, reference, request, decoding, owner)

    async def judge(self, judge: str, items: Sequence[Judged]) -> list[Verdict]:
        return await (await self.judges.open(judge)).judge(items)


@dataclass(frozen=True, kw_only=True)
class Access:
    """What the process that starts the service found, and every replica is told."""

    tokens: tuple[TokenRecord, ...] | None
    """Tokens beside those of the storage; None: no authentication."""
    instance: str
    findings: tuple[Finding, ...] = ()


class Api:
    """The deployment that takes HTTP requests."""

    def __init__(
        self,
        checkpoints: DeploymentHandle[Any],
        evaluations: DeploymentHandle[Any],
        config: ServeConfig,
        settings: Settings,
        access: Access,
    ) -> None:
        self.evaluations = evaluations  # named here so that Serve deploys it with this one
        engines = ServedEngines(checkpoints, config, settings.storage)
        service = Service(
            storage=settings.storage,
            store=open_store(settings.store_url),
            engines=engines,
            judges=config.judges,
        )
        tokens = None
        if access.tokens is not None:
            tokens = Tokens(TokenFile(settings.storage.tokens), access.tokens)
        api = ApiSettings(
            tokens=tokens,
            limits=config.limits,
            instance=access.instance,
            restricted=config.restricted,
            moderation=config.moderation,
            follows_schemas=config.checkpoints.engine == "vllm",
            audit=Audit(settings.storage.audit),
            files=Files(settings.storage.files),
            findings=access.findings,
            counts=self._counts,
        )
        log_json()
        self._app = create_api(service, api)

    async def _counts(self) -> dict[str, int]:
        counts: dict[str, int] = await self.evaluations.counts.remote()
        return counts

    def __serve_build_asgi_app__(self) -> FastAPI:
        return self._app


class Evaluations:
    """One replica; Serve starts another when it dies or `check_health` raises."""

    def __init__(
        self, checkpoints: DeploymentHandle[Any], config: ServeConfig, settings: Settings
    ) -> None:
        store = open_store(settings.store_url)
        engines = ServedEngines(checkpoints, config, settings.storage)
        runner = EvaluationRunner(
            config.evaluations,
            storage=settings.storage,
            store=store,
            open_model=engines.open_model,
            judges=engines.judges,
        )
        service = Service(
            storage=settings.storage, store=store, engines=engines, judges=config.judges
        )
        # Batches are bounded by how many requests they have in hand, not by a queue.
        limits = replace(config.limits, waiting=10**6, waiting_tokens=10**12, share=1.0)
        admission = Admission(limits)
        desk = Desk(
            service,
            admission,
            restricted=config.restricted,
            follows_schemas=config.checkpoints.engine == "vllm",
            audit=Audit(settings.storage.audit),
        )
        batches = BatchRunner(
            Files(settings.storage.files),
            store,
            Lines(service, desk, config.moderation).answer,
            config=config.evaluations,
            most=config.limits.samples,
        )
        self._runner = runner
        loop = asyncio.get_running_loop()
        self._work = [loop.create_task(one.run()) for one in (runner, batches)]

    async def counts(self) -> dict[str, int]:
        """What was evaluated since this replica started, for /metrics."""
        return self._runner.counts()

    async def check_health(self) -> None:
        for work in self._work:
            if work.done():
                work.result()
                raise RuntimeError("the runner of evaluations or batches has ended")
