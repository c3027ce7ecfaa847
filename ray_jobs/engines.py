"""Models as Ray actors: an engine each, on a GPU or a share of the CPUs, behind the Generator protocol."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError

from safemirage.config.evaluate import DecodingConfig, GeneratorConfig, OpenAIConfig
from safemirage.evaluation.cases import Generation, Request
from safemirage.evaluation.generators import Generator, GeneratorUnavailable
from safemirage.evaluation.generators.build import open_generator
from safemirage.settings import Secrets
from serve_app.remote_errors import raised_there


class Engine:
    """A generator in a process of its own. Its calls may overlap; the generator puts them in a row."""

    def __init__(self, config: GeneratorConfig, threads: int, secrets: Secrets) -> None:
        secrets.install()
        self._config = config
        self._threads = threads
        self._stack = AsyncExitStack()
        self._generator: Generator | None = None

    async def open(self) -> dict[str, str]:
        """Loads the model; its key."""
        import torch

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
    """An Engine's actor, as a Generator."""

    def __init__(self, actor: Any, key: Mapping[str, str]) -> None:
        self._actor = actor
        self._key = dict(key)

    @property
    def key(self) -> Mapping[str, str]:
        return self._key

    async def generate(
        self, requests: Sequence[Request], decoding: DecodingConfig
    ) -> list[Generation]:
        try:
            answers: list[Generation] = await self._actor.generate.remote(list(requests), decoding)
        except RayActorError as error:
            raise GeneratorUnavailable(f"the engine's process ended: {error}") from error
        except RayTaskError as error:
            raise raised_there(error) from None
        return answers


@asynccontextmanager
async def open_engine(
    config: GeneratorConfig, *, resources: Mapping[str, float], secrets: Secrets
) -> AsyncIterator[Generator]:
    """The model as an actor that holds `resources`, ended on leaving. One behind a URL needs none and gets no actor.

    Raises:
        GeneratorUnavailable: its process ended while it loaded.
    """
    if isinstance(config, OpenAIConfig):
        async with open_generator(config) as remote:
            yield remote
        return
    cpus, gpus = resources["CPU"], resources.get("GPU", 0)
    actor = (
        ray.remote(Engine)
        .options(num_cpus=cpus, num_gpus=gpus, max_concurrency=8)
        .remote(config, max(1, int(cpus)), secrets)
    )
    try:
        key: dict[str, str] = await actor.open.remote()
        yield EngineClient(actor, key)
        await actor.close.remote()
    except RayActorError as error:
        raise GeneratorUnavailable(f"the engine's process ended: {error}") from error
    finally:
        ray.kill(actor)
