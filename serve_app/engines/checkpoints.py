"""The Checkpoints deployment: exports by id, loaded when they are first asked for, several in one replica."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import Any, Protocol, assert_never

from ray import serve
from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import ReplicaUnavailableError
from ray.serve.handle import DeploymentHandle
from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt, wait_fixed

from safemirage.config.generators import DecodingConfig
from safemirage.config.serve import CheckpointsConfig
from safemirage.evaluation.generators import GeneratorBroken, GeneratorUnavailable
from safemirage.evaluation.generators.speech import ChatAnswer, Delta
from safemirage.evaluation.types import Generation, Request
from safemirage.models.manifest import read_manifest
from safemirage.settings import Settings
from serve_app.engines.errors import is_lost, raised_there
from serve_app.engines.fair import FairGate, cost_of

_ATTEMPTS = 4
_PAUSE_S = 2.0
_Stamp = frozenset[tuple[str, int, int, int]]


class LiveEngine(Protocol):
    """A model that requests enter and leave at any time."""

    @property
    def key(self) -> Mapping[str, str]: ...

    async def answer(self, request: Request, decoding: DecodingConfig) -> ChatAnswer: ...

    def stream(self, request: Request, decoding: DecodingConfig) -> AsyncIterator[Delta]: ...

    def close(self) -> None: ...


class LoadedExport:
    """A model in memory, and the order in which callers get at it. Serve drops it when the replica is full."""

    def __init__(self, engine: LiveEngine, *, rows: int) -> None:
        self.key = dict(engine.key)
        self._engine: LiveEngine | None = engine
        # A quarter more than it has rows, so that the next is at hand when a row is free.
        self._gate = FairGate(rows + max(1, rows // 4))

    async def generate(
        self, requests: Sequence[Request], decoding: DecodingConfig, owner: str
    ) -> list[Generation]:
        """One answer a request, in order."""
        asked = [
            asyncio.ensure_future(self.answer(request, decoding, owner)) for request in requests
        ]
        try:
            return [answer.generation for answer in await asyncio.gather(*asked)]
        finally:
            # Where one failed, or the caller went away, the others leave the engine.
            for one in asked:
                one.cancel()

    async def answer(self, request: Request, decoding: DecodingConfig, owner: str) -> ChatAnswer:
        async with self._gate.place(owner, cost_of(request, decoding)):
            assert self._engine is not None, "a model is dropped when no call has it"
            return await self._engine.answer(request, decoding)

    async def stream(
        self, request: Request, decoding: DecodingConfig, owner: str
    ) -> AsyncIterator[Delta]:
        async with self._gate.place(owner, cost_of(request, decoding)):
            assert self._engine is not None, "a model is dropped when no call has it"
            async with aclosing(self._engine.stream(request, decoding)) as deltas:  # type: ignore[type-var]
                async for delta in deltas:
                    yield delta

    def __del__(self) -> None:
        """Ends the engine; Serve calls it for a model that it drops, and Python may once more."""
        engine, self._engine = self._engine, None
        if engine is None:
            return
        if self._gate.is_idle:
            engine.close()
        else:
            # What it still answers may take a while, in which other models of the replica are asked.
            threading.Thread(target=engine.close, name="closing").start()


def open_export(folder: Path, config: CheckpointsConfig) -> LiveEngine:
    """Loads an export with the configured engine. Every file is compared with the manifest first."""
    match config.engine:
        case "transformers":
            import torch

            from safemirage.evaluation.generators.live import LiveTransformers
            from safemirage.evaluation.generators.transformers import TransformersGenerator

            torch.set_num_threads(config.threads)
            device = "cuda" if config.gpus else "cpu"
            return LiveTransformers(
                TransformersGenerator.load(
                    folder, dtype=config.dtype, device=device, batch_size=config.batch
                )
            )
        case "vllm":
            from safemirage.evaluation.generators.vllm import VLLMGenerator

            return VLLMGenerator.load(folder, dtype=config.dtype, max_images=config.images)
        case _:
            assert_never(config.engine)


class Checkpoints:
    """One replica. A model goes by its reference, `id@weights digest`, so a model that was trained anew under an
    old id is loaded anew."""

    def __init__(self, config: CheckpointsConfig, settings: Settings) -> None:
        settings.secrets.install()
        self._config = config
        self._exports = settings.storage.exports
        self._broken: dict[str, tuple[_Stamp, GeneratorBroken]] = {}
        """Exports that could not be loaded, as their files were then: hashing gigabytes again would say the same."""

    async def load(self, reference: str) -> LoadedExport:
        name, _, digest = reference.partition("@")
        folder = self._exports / name
        stamp = await asyncio.to_thread(_stamp, folder)
        known, problem = self._broken.get(reference, (None, None))
        if problem is not None and known == stamp:
            raise problem
        try:
            # In a thread: loading takes minutes, and other models of the replica keep answering meanwhile.
            engine = await asyncio.to_thread(open_export, folder, self._config)
        except (ValueError, FileNotFoundError) as error:
            # Not what its manifest says, of a family that is not known, without a file: no wait mends that.
            said = str(error).replace(str(folder), name)
            problem = GeneratorBroken(f"model {name!r} cannot be loaded: {said}")
            self._broken[reference] = (stamp, problem)
            raise problem from error
        except MemoryError as error:
            raise GeneratorUnavailable(f"no memory is left to load model {name!r}") from error
        # The export may have been replaced since the caller read its digest.
        if read_manifest(folder).weights_digest != digest:
            raise GeneratorUnavailable(f"model {name!r} was changed while it was loaded; ask again")
        return LoadedExport(engine, rows=self._config.batch)

    async def describe(self, reference: str) -> dict[str, str]:
        """The key of the generator: see Generator."""
        return (await self.load(reference)).key

    async def generate(
        self, reference: str, requests: Sequence[Request], decoding: DecodingConfig, owner: str
    ) -> list[Generation]:
        """One answer a request, in order."""
        return await (await self.load(reference)).generate(requests, decoding, owner)

    async def answer(
        self, reference: str, request: Request, decoding: DecodingConfig, owner: str
    ) -> ChatAnswer:
        return await (await self.load(reference)).answer(request, decoding, owner)

    async def stream(
        self, reference: str, request: Request, decoding: DecodingConfig, owner: str
    ) -> AsyncIterator[Delta]:
        """The answer token by token."""
        loaded = await self.load(reference)
        async with aclosing(loaded.stream(request, decoding, owner)) as deltas:  # type: ignore[type-var]
            async for delta in deltas:
                yield delta


def _stamp(folder: Path) -> _Stamp:
    """What changes when any file of a folder does, without reading one."""
    found = ((path.as_posix(), path.stat()) for path in folder.rglob("*"))
    return frozenset((name, one.st_size, one.st_mtime_ns, one.st_ino) for name, one in found)


def checkpoints_class(models: int) -> type[Checkpoints]:
    """Checkpoints that keeps `models` models loaded; Serve takes that number at decoration only."""

    # Made here because the decorator needs the number when the class is made.
    class MultiplexedCheckpoints(Checkpoints):
        @serve.multiplexed(max_num_models_per_replica=models)
        async def load(self, reference: str) -> LoadedExport:
            return await Checkpoints.load(self, reference)

    return MultiplexedCheckpoints


class ServedGenerator:
    """An export behind the Checkpoints deployment, as a Generator."""

    def __init__(
        self, handle: DeploymentHandle[Any], reference: str, key: Mapping[str, str], *, owner: str
    ) -> None:
        self._handle = handle
        self._reference = reference
        self._key = dict(key)
        self._owner = owner

    @property
    def key(self) -> Mapping[str, str]:
        return self._key

    async def generate(
        self, requests: Sequence[Request], decoding: DecodingConfig
    ) -> list[Generation]:
        answers: list[Generation] = await called(
            self._handle, self._reference, "generate", list(requests), decoding, self._owner
        )
        return answers


async def open_served(
    handle: DeploymentHandle[Any], exports: Path, model_id: str, *, owner: str
) -> ServedGenerator:
    """Loads the export, if it is not loaded, and returns what asks it for `owner`.

    Raises:
        ExportError: there is no such export.
        GeneratorUnavailable: it cannot be loaded; GeneratorBroken, where that stays so.
    """
    reference = reference_of(exports, model_id)
    key = await called(handle, reference, "describe")
    return ServedGenerator(handle, reference, key, owner=owner)


def reference_of(exports: Path, model_id: str) -> str:
    """What the deployment knows an export by. Raises ExportError where there is none."""
    return f"{model_id}@{read_manifest(exports / model_id).weights_digest}"


async def called(
    handle: DeploymentHandle[Any], reference: str, method: str, *arguments: Any
) -> Any:
    """What a replica that has the model returns; one that died is replaced and asked again, which is safe here.

    A caller that is cancelled takes its request out of the engine.

    Raises:
        RequestRejected, GeneratorUnavailable: see Generator.
    """
    # Serve sends a call to a replica that has the model already, where there is one.
    remote = getattr(handle.options(multiplexed_model_id=reference), method)

    async def answer() -> (
        Any
    ):  # tenacity awaits what it knows to be a coroutine function, which `remote` is not
        response = remote.remote(reference, *arguments)
        try:
            return await response
        except asyncio.CancelledError:
            response.cancel()
            raise

    retrying = AsyncRetrying(
        retry=retry_if_exception(_went_away),
        stop=stop_after_attempt(_ATTEMPTS),
        wait=wait_fixed(_PAUSE_S),
        reraise=True,
    )
    with _translated(reference):
        return await retrying(answer)


async def streamed(
    handle: DeploymentHandle[Any],
    reference: str,
    request: Request,
    decoding: DecodingConfig,
    owner: str,
) -> AsyncIterator[Delta]:
    """The answer token by token. A replica that dies before the first token is replaced; later the stream breaks off, since
    a sampled answer cannot be continued by another.

    Raises:
        RequestRejected, GeneratorUnavailable: see Generator.
    """
    remote = handle.options(multiplexed_model_id=reference, stream=True).stream
    for attempt in range(1, _ATTEMPTS + 1):
        begun = False
        response = remote.remote(reference, request, decoding, owner)
        try:
            with _translated(reference):
                try:
                    async for delta in response:
                        begun = True
                        yield delta
                    return
                except (RayError, ReplicaUnavailableError) as error:
                    if begun or attempt == _ATTEMPTS or not _went_away(error):
                        raise
        finally:
            response.cancel()
        await asyncio.sleep(_PAUSE_S)


@contextmanager
def _translated(reference: str) -> Iterator[None]:
    """Ray's errors as the engine's own: what was raised there, or that the machine took it away."""
    try:
        yield
    except RayTaskError as error:
        raise raised_there(error) from None
    except (RayError, ReplicaUnavailableError) as error:
        if not _went_away(error):
            raise
        raise GeneratorUnavailable(f"{reference}: {error}") from error


def _went_away(error: BaseException) -> bool:
    return isinstance(error, ReplicaUnavailableError) or is_lost(error)
