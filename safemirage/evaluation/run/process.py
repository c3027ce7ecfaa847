"""An evaluation by its config, in this process: suite, generator and judges are opened, used and closed."""

import asyncio
import logging
import uuid
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack

from safemirage.config.evaluate import EvaluateConfig, suite_name
from safemirage.config.generators import GeneratorConfig
from safemirage.config.judges import JudgeConfig, judging_model
from safemirage.config.loading.identity import digest_of, identity_tree
from safemirage.config.loading.load import to_tree
from safemirage.evaluation.generators import Generator
from safemirage.evaluation.generators.asking import ModelCalls
from safemirage.evaluation.generators.build import open_generator
from safemirage.evaluation.judges import Judge
from safemirage.evaluation.judges.build import build_judge
from safemirage.evaluation.judges.validity import VALIDATED_SUITES, VALIDITY
from safemirage.evaluation.run.evaluate import EvaluationSpec, evaluate
from safemirage.evaluation.suites.folder import suite_digest
from safemirage.evaluation.suites.sampling import load_samples
from safemirage.evaluation.types import EVALUATION_SCOPE
from safemirage.progress import OnProgress
from safemirage.store.database import Store
from safemirage.store.evaluations import Evaluation
from safemirage.store.records import EvaluationRecord, JudgeRecord

_log = logging.getLogger(__name__)
OpenModel = Callable[[GeneratorConfig], AbstractAsyncContextManager[Generator]]


async def run_evaluation(
    config: EvaluateConfig,
    *,
    store: Store,
    on_progress: OnProgress | None = None,
    calls: ModelCalls | None = None,
    open_model: OpenModel = open_generator,
) -> Evaluation:
    """The evaluation that `config` describes. One with the same content that finished before is returned.

    A model that cannot tell its weights is asked anew each time, but an evaluation of it that was cut off is
    continued. What models are asked is counted in `calls`; `open_model` opens them, or gives those that are open.

    Raises:
        SuiteError, DataError: the suite cannot be used.
        GeneratorUnavailable, ConfigError: the model, or a judge's, cannot be opened.
        TooManyUnscored: a judge left more of the samples unscored than the config allows.
    """
    samples = await asyncio.to_thread(load_samples, config)
    _say_where_unmeasured(config)
    calls = calls or ModelCalls()
    async with AsyncExitStack() as stack:
        generator = calls.counted_answers(await stack.enter_async_context(open_model(config.model)))
        judges = await open_judges(config.judges, stack, calls, open_model)
        record = EvaluationRecord(
            name=config.name,
            suite=suite_name(config),
            suite_digest=suite_digest(samples),
            generator=dict(generator.key),
            judges=tuple(map(judge_record, judges)),
            protocol=config.protocol,
            sample=config.sample,
            sampling=config.sampling,
            seed=config.seed,
            decoding=config.decoding,
            config=identity_tree(config),
        )
        spec = EvaluationSpec(
            id=await _evaluation_id(record, generator, store),
            model=config.name,
            decoding=config.decoding,
            batch_size=config.batch_size,
            protocol=config.protocol,
            max_unscored=config.max_unscored,
            record=record,
        )
        await asyncio.to_thread(
            store.evaluations.requeue, spec.id
        )  # asking again takes a cancel back
        return await evaluate(
            spec, samples, generator, judges, store=store, on_progress=on_progress
        )


def _say_where_unmeasured(config: EvaluateConfig) -> None:
    """Names the judges whose errors are known of other answers than those that this evaluation will have."""
    known = [judge.name for judge in config.judges if judge.name in VALIDITY]
    if known and suite_name(config) not in VALIDATED_SUITES:
        _log.warning(
            "%s: how often it errs is known on answers to VLGuard and XSTest, not on those to %r; label some of them and "
            "count with `safemirage audit-judge`",
            ", ".join(known),
            suite_name(config),
        )


async def open_judges(
    configs: Sequence[JudgeConfig],
    stack: AsyncExitStack,
    calls: ModelCalls,
    open_model: OpenModel = open_generator,
) -> list[Judge]:
    """The judges, open until `stack` is left; several that ask one model share it."""
    generators: dict[str, Generator] = {}
    for judge in configs:
        model = judging_model(judge)
        if model is not None and (key := digest_of(to_tree(model))) not in generators:
            opened = await stack.enter_async_context(open_model(model))
            generators[key] = calls.counted_verdicts(opened)
    return [
        build_judge(judge, lambda model: generators[digest_of(to_tree(model))]) for judge in configs
    ]


async def _evaluation_id(record: EvaluationRecord, generator: Generator, store: Store) -> str:
    made = f"{record.name}-{record.identity[:12]}"
    if generator.key.get("scope") != EVALUATION_SCOPE:
        return made
    unfinished = await asyncio.to_thread(
        store.evaluations.list, states=("queued", "running", "failed")
    )
    for evaluation in unfinished:
        if evaluation.readable == record:
            return evaluation.id
    return f"{made}-{uuid.uuid4().hex[:8]}"


def judge_record(judge: Judge) -> JudgeRecord:
    return JudgeRecord(name=judge.name, key=dict(judge.key))
