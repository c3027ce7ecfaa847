"""One evaluation: every sample answered and judged through the store, batch by batch, then counted.

What the store knows is not asked again, so a second identical evaluation calls no model, and one that was killed goes
on where it was. Store calls run in threads, so that the event loop stays free.
"""

import asyncio
import logging
import traceback
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from itertools import zip_longest

from safemirage.config.generators import DecodingConfig
from safemirage.config.rates import ProtocolName
from safemirage.evaluation.errors import COMMONEST_REASON
from safemirage.evaluation.generators import GenerationError, Generator
from safemirage.evaluation.generators.asking import ask_each
from safemirage.evaluation.judges import Judge, Judged
from safemirage.evaluation.judges.asked import TRIED, AskingJudge, require_understood
from safemirage.evaluation.judges.rules import with_degenerate
from safemirage.evaluation.metrics.rates import score_as
from safemirage.evaluation.types import (
    EvaluatedSample,
    Generation,
    Request,
    Sample,
    Verdict,
    evaluated_sample,
    evaluated_tree,
    generation_key,
    scoped_key,
    verdict_key,
    verdict_tree,
)
from safemirage.progress import OnProgress
from safemirage.store.database import Store
from safemirage.store.evaluations import LEASE_PREFIX, TERMINAL, Evaluation
from safemirage.store.leases import DEFAULT_TTL_S, Lease, LeaseLost
from safemirage.store.records import EvaluationRecord

_POLL_S = 0.25
_Answer = tuple[str | None, str]
"""The answer, or None and why there is none."""
_log = logging.getLogger(__name__)


class TooManyUnscored(GenerationError):
    """A judge gave no verdict so often that its rates would say little of the model."""


@dataclass(frozen=True, kw_only=True)
class StoredAnswers:
    """Stands in a generator's place: answers that were given before, to be judged again."""

    answers: Mapping[str, _Answer]
    """The stored answers, by sample id."""


@dataclass(frozen=True, kw_only=True)
class EvaluationSpec:
    id: str
    model: str
    """The model's name in the rows."""
    decoding: DecodingConfig
    batch_size: int = 32
    """Samples that the generator is given in one call."""
    system: str | None = None
    """System message of every question."""
    protocol: ProtocolName = "corrected"
    """The protocol by whose rules verdicts become rates."""
    max_unscored: float = 1.0
    """Share of samples that a judge may leave unscored; with more the evaluation fails."""
    ttl_s: float = DEFAULT_TTL_S
    """How long after a sudden end another process may take the evaluation over."""
    record: EvaluationRecord | None = None
    """What the store keeps of it; what it was submitted with, if it was. None: what this spec says."""


async def evaluate(
    spec: EvaluationSpec,
    samples: Sequence[Sample],
    generator: Generator | StoredAnswers,
    judges: Sequence[Judge],
    *,
    store: Store,
    on_progress: OnProgress | None = None,
) -> Evaluation:
    """The evaluation at its end: finished, or cancelled (`store.evaluations.cancel`).

    One that another process works on is waited for, and returned as it ends there, `failed` included. One that
    ended already is returned as it is, but one that failed is done again.

    Raises:
        IdempotencyConflict: the id is known with another `record`.
        GeneratorUnavailable: the model cannot be reached; recorded, as any other error is.
        JudgeNotUnderstood: a judge's first verdicts cannot be read; recorded.
        LeaseLost: this process stalled and another took the evaluation over.
        TooManyUnscored: a judge left more than `max_unscored` of the samples without a verdict; recorded.
    """
    judges = with_degenerate(judges)
    names = [judge.name for judge in judges]
    if len(set(names)) != len(names):
        raise ValueError(f"judges: {names} holds a name twice; every judge needs its own")
    # Submitted with it, an id that is known with another record is refused.
    record = spec.record or EvaluationRecord(
        name=spec.model, protocol=spec.protocol, decoding=spec.decoding
    )
    # Known before it is held, so that it is listed and can be cancelled while another process has it.
    await asyncio.to_thread(store.evaluations.submit, record, evaluation_id=spec.id)
    async with _held(store, spec) as lease:
        if lease is not None:
            await _Work(spec, generator, judges, store=store, lease=lease).run(samples, on_progress)
    ended = await asyncio.to_thread(store.evaluations.get, spec.id)
    assert ended is not None, f"evaluation {spec.id} was submitted above"
    return ended


@asynccontextmanager
async def _held(store: Store, spec: EvaluationSpec) -> AsyncIterator[Lease | None]:
    """The evaluation's lease, or None when it has ended, maybe in another process that was waited for."""
    ended = set(TERMINAL - {"failed"})
    while True:
        record = await asyncio.to_thread(store.evaluations.get, spec.id)
        assert record is not None, f"evaluation {spec.id} was submitted"
        # Looked at before the lease is asked for: one that has ended needs none.
        if record.state in ended:
            yield None
            return
        name = LEASE_PREFIX + spec.id
        lease = await asyncio.to_thread(store.leases.acquire, name, ttl_s=spec.ttl_s)
        if lease is not None:
            break
        # A failure that was there before is tried again; one that comes while we wait is that process's answer.
        if "failed" not in ended and record.is_live:
            ended.add("failed")  # in the process that is waited for
            _log.warning(
                "evaluation %s: another process has it, or ended without giving it back less than %g s ago; waiting",
                spec.id,
                spec.ttl_s,
            )
        await asyncio.sleep(_POLL_S)
    # `with` is not used because giving the lease back writes to the database, which belongs in a thread.
    lease.start()
    try:
        yield lease
    finally:
        await asyncio.to_thread(lease.release)


class _Work:
    """The evaluation while this process holds it."""

    def __init__(
        self,
        spec: EvaluationSpec,
        generator: Generator | StoredAnswers,
        judges: Sequence[Judge],
        *,
        store: Store,
        lease: Lease,
    ) -> None:
        self._spec = spec
        self._generator = generator
        self._judges = judges
        self._store = store
        self._lease = lease
        # A judge whose weights nobody can tell keeps its verdicts within this evaluation.
        self._judge_keys = {judge.name: scoped_key(judge.key, spec.id) for judge in judges}

    async def run(self, samples: Sequence[Sample], on_progress: OnProgress | None) -> None:
        evaluations, spec = self._store.evaluations, self._spec
        started = await asyncio.to_thread(
            evaluations.start, spec.id, lease=self._lease, total=len(samples)
        )
        # Cancelled or ended between the look at its record and the lease.
        if not started:
            return
        async with _recorded(self._store, spec.id, self._lease):
            # Below that, the evaluation itself shows it as soon.
            if len(samples) > TRIED:
                await self._try_judges(samples)
            evaluated = await self._samples(samples, on_progress)
            # Cancelled: the record says so already.
            if evaluated is None:
                return
            # Before the rates: a table with many unscored answers would look like a result.
            _check_unscored(evaluated, [judge.name for judge in self._judges], spec.max_unscored)
            measures = {judge.name: judge.measures for judge in self._judges}
            rows = score_as(spec.protocol, spec.model, evaluated, measures)
            await asyncio.to_thread(evaluations.finish, spec.id, rows, lease=self._lease)

    async def _try_judges(self, samples: Sequence[Sample]) -> None:
        for judge in self._judges:
            if isinstance(judge, AskingJudge):
                await require_understood(judge, samples, max_unscored=self._spec.max_unscored)

    async def _samples(
        self, samples: Sequence[Sample], on_progress: OnProgress | None
    ) -> list[EvaluatedSample] | None:
        """Each sample with its answer and verdicts; None once the evaluation is cancelled. While a batch is judged, the next is answered."""
        # Asked in this order, but stored and returned in the suite's.
        order, size = _by_image(samples), self._spec.batch_size
        batches = [order[first : first + size] for first in range(0, len(samples), size)]
        placed: dict[int, EvaluatedSample] = {}
        answering: asyncio.Task[list[_Answer]] | None = None
        try:
            for places, following in zip_longest(batches, batches[1:]):
                batch = [samples[place] for place in places]
                # The first batch has nobody ahead of it; every other was asked for while the one before was judged.
                answers = await (answering or self._answers(batch))
                answering = None
                # Looked at once a batch: a cancel takes effect after the batch in hand.
                if following is not None and not await self._is_cancelled():
                    ahead = [samples[place] for place in following]
                    answering = asyncio.create_task(self._answers(ahead))
                placed |= dict(zip(places, await self._judged(batch, answers), strict=True))
                if not await self._put({place: placed[place] for place in places}, len(placed)):
                    return None
                if on_progress is not None:
                    on_progress(len(placed), len(samples))
        # A batch that was asked for ahead must not outlive an error or a cancel.
        finally:
            if answering is not None:
                answering.cancel()
                await asyncio.gather(answering, return_exceptions=True)
        return [placed[place] for place in range(len(samples))]

    async def _is_cancelled(self) -> bool:
        record = await asyncio.to_thread(self._store.evaluations.get, self._spec.id)
        return record is not None and record.state == "cancelled"

    async def _put(self, samples: Mapping[int, EvaluatedSample], done: int) -> bool:
        """Whether the evaluation continues: it was not cancelled."""
        return await asyncio.to_thread(
            self._store.evaluations.put_batch,
            self._spec.id,
            {place: evaluated_tree(sample) for place, sample in samples.items()},
            lease=self._lease,
            done=done,
        )

    async def _judged(
        self, samples: Sequence[Sample], answers: Sequence[_Answer]
    ) -> list[EvaluatedSample]:
        judged = [
            Judged(sample=sample, answer=text)
            for sample, (text, _) in zip(samples, answers, strict=True)
            if text is not None
        ]
        by_judge = [await self._verdicts(judge, judged) for judge in self._judges]
        verdicts = iter(list(zip(*by_judge, strict=True)) if by_judge else [()] * len(judged))
        return [
            evaluated_sample(
                sample, text, error, next(verdicts) if text is not None else self._none(error)
            )
            for sample, (text, error) in zip(samples, answers, strict=True)
        ]

    async def _answers(self, samples: Sequence[Sample]) -> list[_Answer]:
        images = {
            sample.image.digest: sample.image.data for sample in samples if sample.image is not None
        }
        await asyncio.to_thread(self._store.samples.put_images, images)
        generator = self._generator
        if isinstance(generator, StoredAnswers):
            return [generator.answers[sample.sample_id] for sample in samples]
        spec, table = self._spec, self._store.samples.generations
        # Images were stored above, before any answer that refers to them.
        requests = [
            Request(
                question=sample.question,
                image=sample.image,
                system=spec.system,
                prefill=sample.prefill,
            )
            for sample in samples
        ]
        model = scoped_key(generator.key, spec.id)
        keys = [generation_key(model, item, spec.decoding) for item in requests]
        # Two samples may share a key (the same question about the same image): it is then asked once.
        found = await asyncio.to_thread(table.get, keys)
        missing = {
            key: request for key, request in zip(keys, requests, strict=True) if key not in found
        }
        errors: dict[str, str] = {}
        if missing:
            replies = await ask_each(generator, list(missing.values()), spec.decoding)
            new = dict(zip(missing, replies, strict=True))
            errors = {
                key: str(reply) for key, reply in new.items() if not isinstance(reply, Generation)
            }
            # Errors are not stored, so that the next run asks again.
            payloads = {
                key: asdict(reply) for key, reply in new.items() if isinstance(reply, Generation)
            }
            # `put` returns what the store holds now: where another process was first, its answer counts in both.
            found |= await asyncio.to_thread(table.put, payloads)
        return [
            (sample.whole_answer(found[key]["text"]), "") if key in found else (None, errors[key])
            for sample, key in zip(samples, keys, strict=True)
        ]

    async def _verdicts(self, judge: Judge, items: Sequence[Judged]) -> list[Verdict]:
        table = self._store.samples.verdicts
        keys = [
            verdict_key(self._judge_keys[judge.name], item.sample, item.answer) for item in items
        ]
        found = await asyncio.to_thread(table.get, keys)
        missing = {key: item for key, item in zip(keys, items, strict=True) if key not in found}
        if missing:
            verdicts = await judge.judge(list(missing.values()))
            new = dict(zip(missing, verdicts, strict=True))
            # A verdict that failed for a reason that may pass is used here and asked for again next time.
            kept = {key: verdict_tree(verdict) for key, verdict in new.items() if not verdict.retry}
            found |= {key: verdict_tree(verdict) for key, verdict in new.items() if verdict.retry}
            found |= await asyncio.to_thread(table.put, kept)
        # The same judge may go by another name in another evaluation.
        return [Verdict(**{**found[key], "judge": judge.name}) for key in keys]

    def _none(self, error: str) -> tuple[Verdict, ...]:
        reason = f"no answer: {error}"
        return tuple(
            Verdict(judge=judge.name, label="unscored", reason=reason) for judge in self._judges
        )


def _check_unscored(samples: Sequence[EvaluatedSample], judges: Sequence[str], most: float) -> None:
    for judge in judges:
        reasons = [
            verdict.reason
            for sample in samples
            if (verdict := sample.verdict(judge)).label == "unscored"
        ]
        if len(reasons) > most * len(samples):
            reason, times = Counter(reasons).most_common(1)[0]
            raise TooManyUnscored(
                f"judge {judge!r} left {len(reasons)} of {len(samples)} samples unscored, more than max_unscored="
                f"{most:g} allows{COMMONEST_REASON} ({times} times): {reason}"
            )


def _by_image(samples: Sequence[Sample]) -> list[int]:
    """Places of the samples, those of an image side by side, in the order in which images and samples first come.

    So the questions of an image meet in one batch, where a generator encodes it once.
    """
    first: dict[str, int] = {}
    for place, sample in enumerate(samples):
        first.setdefault(sample.image.digest if sample.image is not None else "", place)
    return sorted(
        range(len(samples)),
        key=lambda place: first[
            image.digest if (image := samples[place].image) is not None else ""
        ],
    )


@asynccontextmanager
async def _recorded(store: Store, evaluation_id: str, lease: Lease) -> AsyncIterator[None]:
    """Writes an exception that passes through into the evaluation's record."""
    try:
        yield
    except LeaseLost:
        raise
    # An interrupted evaluation is not at fault: it stays open, for whoever takes it up.
    except Exception as error:
        text = "".join(traceback.format_exception_only(error)).strip()
        await asyncio.to_thread(store.evaluations.fail, evaluation_id, text, lease=lease)
        raise
