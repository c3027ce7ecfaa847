"""Judging the answers of a finished evaluation again, by other judges: nothing is generated."""

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import fields, replace
from pathlib import Path

from safemirage.config.evaluate import RescoreConfig
from safemirage.config.generators import DecodingConfig
from safemirage.config.judges import JudgeConfig
from safemirage.config.loading.identity import identity_tree
from safemirage.config.loading.load import build_config, read_tree
from safemirage.config.rates import ProtocolName
from safemirage.evaluation.errors import EvaluationError
from safemirage.evaluation.generators.asking import ModelCalls
from safemirage.evaluation.judges import Judge
from safemirage.evaluation.metrics.rates import StoredEvaluation
from safemirage.evaluation.run.evaluate import EvaluationSpec, StoredAnswers, evaluate
from safemirage.evaluation.run.process import judge_record, open_judges
from safemirage.evaluation.types import EvaluatedSample, ImageInput, Sample
from safemirage.progress import OnProgress
from safemirage.store.database import Store
from safemirage.store.evaluations import Evaluation
from safemirage.store.records import EvaluationRecord

_CONFIG_SUFFIXES = (".yaml", ".yml")


def read_judges(given: Sequence[str]) -> tuple[JudgeConfig, ...]:
    """Judges by name (`keywords`), or by a YAML file that holds one as it stands in an evaluation's `judges`.

    Raises:
        ConfigError: a name or a file is wrong.
    """
    trees = [
        read_tree(Path(item)) if item.endswith(_CONFIG_SUFFIXES) else {"name": item}
        for item in given
    ]
    return build_config(RescoreConfig, {"judges": trees}, source="--judge").judges


async def rescore(
    original: StoredEvaluation,
    judges: Sequence[JudgeConfig],
    *,
    store: Store,
    protocol: ProtocolName = "corrected",
    on_progress: OnProgress | None = None,
    calls: ModelCalls | None = None,
) -> Evaluation:
    """A new evaluation of the same answers. Done before by the same judges under the same protocol, it is returned.

    Raises:
        EvaluationError: the store lacks an image, as after an import without images.
        GeneratorUnavailable, ConfigError: a judging model cannot be opened.
    """
    samples = [_sample(sample, store) for sample in original.samples]
    answers = {sample.sample_id: (sample.answer, sample.error) for sample in original.samples}
    async with AsyncExitStack() as stack:
        opened = await open_judges(judges, stack, calls or ModelCalls())
        record = _record(original, judges, opened, protocol)
        spec = EvaluationSpec(
            id=f"{original.name}-rescored-{record.identity[:12]}",
            model=original.name,
            decoding=DecodingConfig(),  # nothing is generated
            protocol=protocol,
            record=record,
        )
        await asyncio.to_thread(
            store.evaluations.requeue, spec.id
        )  # asking again takes a cancel back
        given = StoredAnswers(answers=answers)
        return await evaluate(spec, samples, given, opened, store=store, on_progress=on_progress)


def _record(
    original: StoredEvaluation,
    configs: Sequence[JudgeConfig],
    judges: Sequence[Judge],
    protocol: ProtocolName,
) -> EvaluationRecord:
    """The original's record with the new judges and protocol in place of its own, and where the answers came from."""
    changed = {"judges": identity_tree(tuple(configs)), "protocol": protocol}
    return replace(
        original.record,
        source="job",
        rescored=original.id,
        judges=tuple(map(judge_record, judges)),
        protocol=protocol,
        config={**(original.record.config or {}), **changed},
    )


def _sample(sample: EvaluatedSample, store: Store) -> Sample:
    image = None
    if sample.image is not None:
        data = store.samples.image(sample.image)
        if data is None:
            raise EvaluationError(
                f"sample {sample.sample_id}: its image {sample.image[:12]} is not in the store, and a judge may need it"
            )
        image = ImageInput(data)
    values = {
        field.name: getattr(sample, field.name) for field in fields(Sample) if field.name != "image"
    }
    return Sample(**values, image=image)
