"""Models as Ray actors: an engine each, on a GPU or a share of the CPUs, behind the Generator protocol."""

import asyncio
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from ray_jobs.cluster.failures import failure_of, reason_of
from ray_jobs.cluster.nodes import say_if_busy
from safemirage.config.generators import (
    DecodingConfig,
    FolderModelConfig,
    GeneratorConfig,
    OpenAIConfig,
)
from safemirage.config.loading.load import ConfigError
from safemirage.evaluation.generators import GenerationError, Generator, GeneratorUnavailable
from safemirage.evaluation.generators.build import open_generator
from safemirage.evaluation.types import Generation, Request
from safemirage.settings import Secrets
from serve_app.engines.errors import is_lost, raised_there

_RESTARTS = 2
"""How often an engine is started again whose process the machine took away."""


class Engine:
    """A generator in a process of its own. Its calls may overlap; the generator puts them in a row."""

    def __init__(self, config: GeneratorConfig, threads: int, secrets: Secrets) -> None:
        secrets.install()
        self._config = config
        self._threads = threads
        self._stack = AsyncExitStack()
        self._generator: Generator | None = None

    async def open(self) -> dict[str, str]:
        """Loads the model; returns its key."""
        import torch

        # Ray reserves CPUs but does not keep a process to them.
        torch.set_num_threads(self._threads)
        self._generator = await self._stack.enter_async_context(open_generator(self._config))
        return dict(self._generator.key)

    async def generate(
        self, requests: Sequence[Request], decoding: DecodingConfig
    ) -> list[Generation]:
        assert self._generator is not None, "open() comes first"
        return await self._generator.generate(requests, decoding)

    async def close(self) -> None:
        await self._stack.aclose()


class EngineClient:
    """An Engine's actor, as a Generator. One that the machine took away is started again, a few times.

    Raises GeneratorUnavailable when it was taken away once more, and GenerationError where the model does not fit.
    """

    def __init__(
        self, config: GeneratorConfig, resources: Mapping[str, float], secrets: Secrets
    ) -> None:
        self._config = config
        self._resources = resources
        self._secrets = secrets
        self._actor: Any = None
        self._key: dict[str, str] = {}
        self._restarts = 0
        self._replacing = asyncio.Lock()

    @property
    def key(self) -> Mapping[str, str]:
        return self._key

    async def open(self) -> None:
        await self._replace(None, None)

    async def generate(
        self, requests: Sequence[Request], decoding: DecodingConfig
    ) -> list[Generation]:
        while True:
            actor = self._actor
            try:
                answers: list[Generation] = await actor.generate.remote(list(requests), decoding)
            except RayError as error:
                await self._replace(actor, error)
            else:
                return answers

    async def close(self) -> None:
        try:
            await self._actor.close.remote()
        except RayError as error:
            if not is_lost(error):
                raise

    def kill(self) -> None:
        if self._actor is not None:
            ray.kill(self._actor)

    async def _replace(self, lost: Any, error: RayError | None) -> None:
        """A new actor in the place of `lost`; calls that lost the same one share it."""
        async with self._replacing:
            # Another call may have put a new actor in place while this one waited for its turn.
            while self._actor is lost:
                if error is not None:
                    self._count(error)
                started = self._start()
                try:
                    self._key = await started.open.remote()
                except RayError as again:
                    # What could not be opened still holds its resources.
                    ray.kill(started)
                    error = again
                else:
                    self._actor = started

    def _count(self, error: RayError) -> None:
        """Takes a loss of the process. Raises what is no loss, and the one that is too many."""
        if not is_lost(error):
            raise _said_there(error) from None
        if self._restarts == _RESTARTS:
            raise GeneratorUnavailable(
                f"the engine's process was lost {_RESTARTS + 1} times: {reason_of(error)}"
            ) from error
        self._restarts += 1
        said = f"an engine was lost and starts again: {reason_of(error)}"
        print(said, file=sys.stderr, flush=True)

    def _start(self) -> Any:
        cpus, gpus = self._resources["CPU"], self._resources.get("GPU", 0)
        say_if_busy(f"an engine of {_name(self._config)}", self._resources, count=1)
        # Several calls may come at a time; the generator puts them in a row.
        options = ray.remote(Engine).options(num_cpus=cpus, num_gpus=gpus, max_concurrency=8)
        return options.remote(self._config, max(1, int(cpus)), self._secrets)


@asynccontextmanager
async def open_engine(
    config: GeneratorConfig, *, resources: Mapping[str, float], secrets: Secrets
) -> AsyncIterator[Generator]:
    """The model as an actor that holds `resources`, ended on leaving. One behind a URL needs none and gets no actor.

    Raises:
        GeneratorUnavailable: its process was lost again and again.
        GenerationError: it does not fit.
    """
    if isinstance(config, OpenAIConfig):
        async with open_generator(config) as remote:
            yield remote
        return
    engine = EngineClient(config, resources, secrets)
    try:
        await engine.open()
        yield engine
        await engine.close()
    finally:
        engine.kill()


def _said_there(error: RayError) -> Exception:
    """What the engine raised, where it is for the table of results; any other as it came."""
    if not isinstance(error, RayTaskError):
        return error
    if isinstance(error.cause, ConfigError):
        return error.cause
    failure = failure_of(error)
    return GenerationError(failure.reason) if failure.cause == "method" else raised_there(error)


def _name(config: GeneratorConfig) -> str:
    if isinstance(config, OpenAIConfig):
        return config.model
    return config.path if isinstance(config, FolderModelConfig) else config.name
