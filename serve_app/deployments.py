"""The two deployments around the checkpoints: Api answers HTTP, Evaluations works through the store."""

import asyncio
from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI
from ray.serve.handle import DeploymentHandle

from safemirage.config.generators import DecodingConfig
from safemirage.config.serve import ServeConfig
from safemirage.evaluation.judges import Judged
from safemirage.evaluation.types import Generation, Request, Verdict
from safemirage.settings import Settings
from safemirage.storage import Storage
from safemirage.store import open_store
from serve_app.engines.checkpoints import ServedGenerator, ask, open_served, reference_of
from serve_app.evaluations import EvaluationRunner
from serve_app.http.api import ApiSettings, create_api
from serve_app.http.auth import TokenDigest
from serve_app.judges import Judges
from serve_app.service import Service


class ServedEngines:
    """Models and judges over the Checkpoints deployment."""

    def __init__(
        self, checkpoints: DeploymentHandle[Any], config: ServeConfig, storage: Storage
    ) -> None:
        self._checkpoints = checkpoints
        self._exports = storage.exports
        self.judges = Judges(config.judges, self.open_model)

    async def open_model(self, model_id: str) -> ServedGenerator:
        """The model of an export. Raises ExportError or GeneratorUnavailable."""
        return await open_served(self._checkpoints, self._exports, model_id)

    async def generate(
        self, model: str, requests: Sequence[Request], decoding: DecodingConfig
    ) -> list[Generation]:
        reference = reference_of(self._exports, model)
        return await ask(self._checkpoints, reference, requests, decoding)

    async def judge(self, judge: str, items: Sequence[Judged]) -> list[Verdict]:
        return await (await self.judges.open(judge)).judge(items)


class Api:
    """The deployment that takes HTTP requests."""

    def __init__(
        self,
        checkpoints: DeploymentHandle[Any],
        evaluations: DeploymentHandle[Any],
        config: ServeConfig,
        settings: Settings,
        access: tuple[Sequence[TokenDigest] | None, str],
    ) -> None:
        tokens, instance = access
        self.evaluations = evaluations  # named here so that Serve deploys it with this one
        engines = ServedEngines(checkpoints, config, settings.storage)
        service = Service(
            storage=settings.storage,
            store=open_store(settings.store_url),
            engines=engines,
            judges=config.judges,
        )
        api = ApiSettings(tokens=tokens, limits=config.limits, instance=instance)
        self._app = create_api(service, api)

    def __serve_build_asgi_app__(self) -> FastAPI:
        return self._app


class Evaluations:
    """One replica; Serve starts another when it dies or `check_health` raises."""

    def __init__(
        self, checkpoints: DeploymentHandle[Any], config: ServeConfig, settings: Settings
    ) -> None:
        engines = ServedEngines(checkpoints, config, settings.storage)
        runner = EvaluationRunner(
            config.evaluations,
            storage=settings.storage,
            store=open_store(settings.store_url),
            open_model=engines.open_model,
            judges=engines.judges,
        )
        self._work = asyncio.get_running_loop().create_task(runner.run())

    async def check_health(self) -> None:
        if self._work.done():
            self._work.result()
            raise RuntimeError("the runner of evaluations has ended")
