"""The Checkpoints deployment: exports by id, loaded when they are first asked for, several in one replica."""

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, assert_never

from ray import serve
from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import ReplicaUnavailableError
from ray.serve.handle import DeploymentHandle
from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt, wait_fixed

from safemirage.config.generators import DecodingConfig
from safemirage.config.serve import CheckpointsConfig
from safemirage.evaluation.generators import (
    Generator,
    GeneratorBroken,
    GeneratorUnavailable,
)
from safemirage.evaluation.types import Generation, Request
from safemirage.models.manifest import read_manifest
from safemirage.settings import Settings
from serve_app.engines.errors import is_lost, raised_there
from serve_app.engines.gathering import Gatherer

_ATTEMPTS = 4
_PAUSE_S = 2.0
_Stamp = frozenset[tuple[str, int, int, int]]


class _Closable(Generator, Protocol):
    def close(self) -> None: ...


class LoadedExport:
    """A model in memory. Serve drops it when the replica is full."""

    def __init__(self, generator: _Closable, config: CheckpointsConfig) -> None:
        self.key = dict(generator.key)
        # Calls of vLLM join those that run; any other engine answers one call after the other.
        self.answering = (
            generator
            if config.engine == "vllm"
            else Gatherer(generator, batch=config.batch, wait_s=config.gather_s)
        )


def open_export(folder: Path, config: CheckpointsConfig) -> _Closable:
    """Loads an export with the configured engine. Every file is compared with the manifest first."""
    match config.engine:
        case "transformers":
            import torch

            from safemirage.evaluation.generators.transformers import TransformersGenerator

            torch.set_num_threads(config.threads)
            device = "cuda" if config.gpus else "cpu"
            return TransformersGenerator.load(
                folder, dtype=config.dtype, device=device, batch_size=config.batch
            )
        case "vllm":
            from safemirage.evaluation.generators.vllm import VLLMGenerator

            return VLLMGenerator.load(folder, dtype=config.dtype)
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
            generator = await asyncio.to_thread(open_export, folder, self._config)
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
        return LoadedExport(generator, self._config)

    async def describe(self, reference: str) -> dict[str, str]:
        """The key of the generator: see Generator."""
        return (await self.load(reference)).key

    async def generate(
        self, reference: str, requests: Sequence[Request], decoding: DecodingConfig
    ) -> list[Generation]:
        """One answer a request, in order; single requests of several callers share a pass."""
        loaded = await self.load(reference)
        return await loaded.answering.generate(requests, decoding)


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
        self, handle: DeploymentHandle[Any], reference: str, key: Mapping[str, str]
    ) -> None:
        self._handle = handle
        self._reference = reference
        self._key = dict(key)

    @property
    def key(self) -> Mapping[str, str]:
        return self._key

    async def generate(
        self, requests: Sequence[Request], decoding: DecodingConfig
    ) -> list[Generation]:
        return await ask(self._handle, self._reference, requests, decoding)


async def open_served(
    handle: DeploymentHandle[Any], exports: Path, model_id: str
) -> ServedGenerator:
    """Loads the export, if it is not loaded, and returns what asks it.

    Raises:
        ExportError: there is no such export.
        GeneratorUnavailable: it cannot be loaded; GeneratorBroken, where that stays so.
    """
    reference = reference_of(exports, model_id)
    key = await _called(handle, reference, "describe")
    return ServedGenerator(handle, reference, key)


def reference_of(exports: Path, model_id: str) -> str:
    """What the deployment knows an export by. Raises ExportError where there is none."""
    return f"{model_id}@{read_manifest(exports / model_id).weights_digest}"


async def ask(
    handle: DeploymentHandle[Any],
    reference: str,
    requests: Sequence[Request],
    decoding: DecodingConfig,
) -> list[Generation]:
    """One answer a request, in order. Raises RequestRejected or GeneratorUnavailable."""
    answers: list[Generation] = await _called(
        handle, reference, "generate", list(requests), decoding
    )
    return answers


async def _called(
    handle: DeploymentHandle[Any], reference: str, method: str, *arguments: Any
) -> Any:
    """Calls a replica that has the model; one that died is replaced and asked again, which is safe here."""
    # Serve sends a call to a replica that has the model already, where there is one.
    remote = getattr(handle.options(multiplexed_model_id=reference), method)

    async def answer() -> (
        Any
    ):  # tenacity awaits what it knows to be a coroutine function, which `remote` is not
        return await remote.remote(reference, *arguments)

    retrying = AsyncRetrying(
        retry=retry_if_exception(_went_away),
        stop=stop_after_attempt(_ATTEMPTS),
        wait=wait_fixed(_PAUSE_S),
        reraise=True,
    )
    try:
        return await retrying(answer)
    except RayTaskError as error:
        raise raised_there(error) from None
    except (RayError, ReplicaUnavailableError) as error:
        if not _went_away(error):
            raise
        raise GeneratorUnavailable(f"{reference}: {error}") from error


def _went_away(error: BaseException) -> bool:
    return isinstance(error, ReplicaUnavailableError) or is_lost(error)
