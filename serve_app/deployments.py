"""The two deployments around the checkpoints: Api answers HTTP, Evaluations works through the store."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from ray.serve.handle import DeploymentHandle

from safemirage.config.evaluate import DecodingConfig
from safemirage.config.serve import ServeConfig
from safemirage.evaluation.cases import Generation, Request, Verdict
from safemirage.evaluation.judges import Judged
from safemirage.storage import Storage
from safemirage.store import Store, open_store
from serve_app.api import ApiSettings, create_api
from serve_app.auth import TokenDigest
from serve_app.checkpoints import ServedGenerator, ask, open_served, reference_of
from serve_app.evaluations import EvaluationRunner
from serve_app.judge import Judges
from serve_app.service import Service


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a replica finds models and state; settled once, where the service is built."""

    root: str
    store_url: str

    @property
    def storage(self) -> Storage:
        return Storage(Path(self.root))

    def open_store(self) -> Store:
        return open_store(self.store_url)


class ServedEngines:
    """Models and judges over the Checkpoints deployment."""

    def __init__(
        self, checkpoints: DeploymentHandle[Any], config: ServeConfig, storage: Storage
    ) -> None:
        self._checkpoints = checkpoints
        self._exports = storage.exports
        self.judges = Judges(config.judges, self.open_model)

    async def open_model(self, model_id: str) -> ServedGenerator:
        """Raises ExportError or GeneratorUnavailable."""
        return await open_served(self._checkpoints, self._exports, model_id)

    async def generate(
        self, model: str, requests: Sequence[Request], decoding: DecodingConfig
    ) -> list[Generation]:
        reference = reference_of(self._exports, model)
        return await ask(self._checkpoints, reference, requests, decoding)

    async def judge(self, judge: str, items: Sequence[Judged]) -> list[Verdict]:
        return await (await self.judges.open(judge)).judge(items)


class Api:
    """The ingress."""

    def __init__(
        self,
        checkpoints: DeploymentHandle[Any],
        evaluations: DeploymentHandle[Any],
        config: ServeConfig,
        place: Place,
        access: tuple[Sequence[TokenDigest] | None, str],
    ) -> None:
        tokens, instance = access
        self.evaluations = evaluations  # named here so that Serve deploys it with this one
        engines = ServedEngines(checkpoints, config, place.storage)
        service = Service(
            storage=place.storage,
            store=place.open_store(),
            engines=engines,
            judges=config.judges,
        )
        settings = ApiSettings(tokens=tokens, limits=config.limits, instance=instance)
        self._app = create_api(service, settings)

    def __serve_build_asgi_app__(self) -> FastAPI:
        return self._app


class Evaluations:
    """One replica; Serve starts another when it dies or `check_health` raises."""

    def __init__(
        self, checkpoints: DeploymentHandle[Any], config: ServeConfig, place: Place
    ) -> None:
        engines = ServedEngines(checkpoints, config, place.storage)
        runner = EvaluationRunner(
            config.evaluations,
            storage=place.storage,
            store=place.open_store(),
            open_model=engines.open_model,
            judges=engines.judges,
        )
        self._work = asyncio.get_running_loop().create_task(runner.run())

    async def check_health(self) -> None:
        if self._work.done():
            self._work.result()
            raise RuntimeError("the runner of evaluations has ended")
