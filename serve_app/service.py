"""The service without HTTP: storage, store, and whatever answers questions (deployment handles, or generators in-process)."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Protocol

from sqlalchemy.exc import SQLAlchemyError

from safemirage.config.generators import DecodingConfig
from safemirage.config.judges import (
    ASKING_JUDGES,
    BUILT_IN_JUDGES,
    AskingJudgeConfig,
    ExportConfig,
    judge_title,
)
from safemirage.config.loading.identity import digest_of, folder_digest
from safemirage.evaluation.generators import (
    GeneratorBroken,
    GeneratorUnavailable,
    RequestRejected,
)
from safemirage.evaluation.generators.speech import ChatAnswer, Delta
from safemirage.evaluation.judges import Judged
from safemirage.evaluation.types import ImageInput, Request, Verdict
from safemirage.models.manifest import ExportError
from safemirage.storage import Storage
from safemirage.store import Store
from safemirage.store.evaluations import Evaluation, IdempotencyConflict
from safemirage.store.records import EvaluationRecord
from serve_app.catalogue import (
    broken,
    find_model,
    find_suite,
    list_models,
    list_suites,
    not_found,
)
from serve_app.http.errors import ApiError, without_paths
from serve_app.resources import JudgeCard, ModelCard, Study, SuiteCard
from serve_app.studies import find_study, list_studies

_RETRY_AFTER_S = 5


class Engines(Protocol):
    """What computes: models by id, judges by name. Both exist when they are called. `owner` is whose fair share it takes."""

    async def answer(
        self, model: str, request: Request, decoding: DecodingConfig, *, owner: str
    ) -> ChatAnswer: ...

    def stream(
        self, model: str, request: Request, decoding: DecodingConfig, *, owner: str
    ) -> AsyncIterator[Delta]: ...

    async def judge(self, judge: str, items: Sequence[Judged]) -> list[Verdict]: ...


class Service:
    """Reads and writes files and database off the event loop. Raises ApiError for what the caller got wrong."""

    def __init__(
        self,
        *,
        storage: Storage,
        store: Store,
        engines: Engines,
        judges: Sequence[AskingJudgeConfig] = (),
    ) -> None:
        self._storage = storage
        self._store = store
        self._engines = engines
        self._judges = {name: JudgeCard(name=name, kind="built-in") for name in BUILT_IN_JUDGES}
        for judge in judges:
            export = judge.model.id if isinstance(judge.model, ExportConfig) else None
            title = judge_title(judge)
            self._judges[title] = JudgeCard(name=title, kind="model", model=export)

    async def is_ready(self) -> dict[str, bool]:
        """Whether each part that requests need can be had."""

        def store() -> bool:
            try:
                self._store.evaluations.list(limit=1)
            except (SQLAlchemyError, OSError):
                return False
            return True

        return {
            "store": await asyncio.to_thread(store),
            "storage": await asyncio.to_thread(self._storage.root.is_dir),
        }

    async def states(self) -> dict[str, int]:
        """How many evaluations are in each state."""
        return await asyncio.to_thread(self._store.evaluations.count_states)

    async def models(self) -> list[ModelCard]:
        return await asyncio.to_thread(list_models, self._storage)

    async def model(self, model_id: str) -> ModelCard:
        return await asyncio.to_thread(find_model, self._storage, model_id)

    def judges(self) -> list[JudgeCard]:
        return list(self._judges.values())

    async def suites(self) -> list[SuiteCard]:
        return await asyncio.to_thread(list_suites, self._storage)

    async def answer(
        self, model: str, request: Request, decoding: DecodingConfig, *, owner: str
    ) -> ChatAnswer:
        await self._check_model(model)
        with _reported(model):
            return await self._engines.answer(model, request, decoding, owner=owner)

    async def stream(
        self, model: str, request: Request, decoding: DecodingConfig, *, owner: str
    ) -> AsyncIterator[Delta]:
        """The answer token by token."""
        await self._check_model(model)
        with _reported(model):
            async for delta in self._engines.stream(model, request, decoding, owner=owner):
                yield delta

    async def judge(self, judge: str, items: Sequence[Judged]) -> list[Verdict]:
        await self._check_judge(judge)
        with _reported(judge):
            return await self._engines.judge(judge, items) if items else []

    async def submit(
        self,
        record: EvaluationRecord,
        images: Sequence[ImageInput],
        *,
        idempotency_key: str | None,
    ) -> Evaluation:
        """Queues an evaluation. The same key with the same record is the same evaluation: one that failed or was
        cancelled is queued again, any other is returned as it is. With another record it is refused (422)."""
        for judge in record.judges:
            await self._check_judge(judge.name)
        return await asyncio.to_thread(self._submit, record, images, idempotency_key)

    async def evaluation(self, evaluation_id: str) -> Evaluation:
        found = await asyncio.to_thread(self._store.evaluations.get, evaluation_id)
        return _found(found, evaluation_id)

    async def evaluations(self, *, limit: int, offset: int) -> list[Evaluation]:
        return await asyncio.to_thread(self._store.evaluations.list, limit=limit, offset=offset)

    async def samples(self, evaluation_id: str, *, limit: int, offset: int) -> list[dict[str, Any]]:
        read = self._store.evaluations.samples
        return await asyncio.to_thread(read, evaluation_id, limit=limit, offset=offset)

    async def cancel(self, evaluation_id: str) -> Evaluation:
        found = await asyncio.to_thread(self._store.evaluations.cancel, evaluation_id)
        return _found(found, evaluation_id)

    async def studies(self) -> list[Study]:
        return await asyncio.to_thread(list_studies, self._store)

    async def study(self, study_id: str) -> Study:
        return await asyncio.to_thread(find_study, self._store, study_id)

    async def _check_judge(self, name: str) -> None:
        if name not in self._judges and name in ASKING_JUDGES:
            raise ApiError(
                404,
                f"judge {name!r} asks a model, and this service has none for it: name it under `judges` in the "
                f"service's config; there is: {', '.join(sorted(self._judges))}",
                param="judge",
            )
        if name not in self._judges:
            raise not_found("judge", name, self._judges)
        model = self._judges[name].model
        if model is not None:
            await self._check_model(model)

    async def _check_model(self, model_id: str) -> None:
        await asyncio.to_thread(self._usable_model, model_id)

    def _usable_model(self, model_id: str) -> ModelCard:
        card = find_model(self._storage, model_id)
        if card.problem is not None:
            raise broken("model", model_id, card.problem)
        return card

    def _submit(
        self,
        record: EvaluationRecord,
        images: Sequence[ImageInput],
        idempotency_key: str | None,
    ) -> Evaluation:
        # Model and suite count by content, so that an edited one is another evaluation.
        folder = find_suite(self._storage, record.suite) if record.suite is not None else None
        record = replace(
            record,
            suite_digest=folder_digest(folder) if folder else None,
            generator={"weights_digest": self._usable_model(record.name).weights_digest},
        )
        self._store.samples.put_images({image.digest: image.data for image in images})
        # Of the owner, so that nobody meets, or guesses at, the evaluations of others by their keys.
        key = None if idempotency_key is None else digest_of([record.owner, idempotency_key])
        try:
            evaluation = self._store.evaluations.submit(record, idempotency_key=key)
        except IdempotencyConflict as error:
            message = f"idempotency key {idempotency_key!r} was used before for another evaluation; give a new one"
            raise ApiError(
                422, message, param="Idempotency-Key", code="idempotency_key_reused"
            ) from error
        return _found(self._store.evaluations.requeue(evaluation.id), evaluation.id)


@contextmanager
def _reported(model: str) -> Iterator[None]:
    """What a model cannot answer is the caller's to know; what it cannot answer now may be asked again."""
    try:
        yield
    except RequestRejected as error:
        message = without_paths(str(error))
        raise ApiError(400, message, param="messages", code="request_rejected") from error
    except (GeneratorBroken, ExportError) as error:
        raise broken("model", model, str(error)) from error
    except GeneratorUnavailable as error:
        message, headers = without_paths(str(error)), {"Retry-After": str(_RETRY_AFTER_S)}
        raise ApiError(503, message, code="model_unavailable", headers=headers) from error


def _found(evaluation: Evaluation | None, evaluation_id: str) -> Evaluation:
    if evaluation is None:
        raise ApiError(404, f"evaluation {evaluation_id!r} is not here", param="evaluation_id")
    return evaluation
