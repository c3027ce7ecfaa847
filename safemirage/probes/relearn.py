"""Relearning: the export is fine-tuned on k of the records that it unlearned, and attack success followed over the steps.

What was removed has to be taught again, from many records; what was only covered comes back after a few steps on a few
of them (Lynch et al. 2024, 2402.16835; Hu et al. 2024, 2406.13356). The control, the same fine-tuning on retain
records, tells relearning from what any fine-tuning undoes: harmless data weakens alignment too (Qi et al. 2023,
2310.03693), and unlearning (2406.13356).

Every point is an ordinary training run with its own identity, export and record in the store. The rate is constant and
the order of samples follows from the seed, so the run of 10 steps begins with that of 5; a point costs its steps again,
which is little beside its evaluation.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from safemirage.config.data import DataConfig
from safemirage.config.generators import FolderModelConfig
from safemirage.config.loading.identity import absolute_input, file_digest, run_identity
from safemirage.config.loading.load import ConfigError, to_tree
from safemirage.config.method import SFTConfig
from safemirage.config.model import ModelConfig
from safemirage.config.probe import RelearnConfig
from safemirage.config.train import CollapseConfig, OptimConfig, TrainConfig, WorkersConfig
from safemirage.data.llava import LlavaRecord, read_training_set
from safemirage.evaluation.judges.build import measures_of
from safemirage.evaluation.suites.sampling import load_samples
from safemirage.evaluation.types import Sample
from safemirage.probes.measuring import Point
from safemirage.progress import OnNamedProgress
from safemirage.runs import TrainResult, read_record
from safemirage.storage import Storage
from safemirage.store.database import Store
from safemirage.store.execution import RunHandle, run_once
from safemirage.training.job import Report, TrainJob
from safemirage.training.loop import train
from safemirage.training.samples.order import draw_subset

SetName = Literal["forget", "retain"]
_REPORT_EVERY_S = 1.0
_SHOWN = 5


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """One training run of the probe."""

    set_name: SetName
    samples: int
    steps: int
    config: TrainConfig

    @property
    def says(self) -> str:
        return f"{self.steps} steps on {self.samples} {self.set_name} records"


def relearn_points(
    config: RelearnConfig, *, storage: Storage, store: Store, on_progress: OnNamedProgress
) -> list[Point]:
    """The export as it is, then what it is after each number of steps on each number of records; trains what is missing.

    Raises:
        ConfigError: the suite asks about records that would be learned, or has no unsafe question; a set is too small.
        DataError, SuiteError, ExportError, SampleError: inputs that cannot be used.
        TrainingDiverged, StorageError: a run failed; the next start resumes it.
    """
    plans = list(_plans(config))
    _check(config, load_samples(config.evaluate))
    points = [
        Point(
            evaluate=config.evaluate,
            says="as it is",
            settings={"set": None, "samples": 0, "steps": 0},
        )
    ]
    for plan in plans:
        run_id, export = _trained(plan.config, storage, store, on_progress)
        model = replace(_probed(config), path=str(export))
        name = f"{config.evaluate.name}-{plan.set_name}{plan.samples}-step{plan.steps}"
        settings = {
            "set": plan.set_name,
            "samples": plan.samples,
            "steps": plan.steps,
            "seed": config.seed,
            "run": run_id,
            "export": str(export),
        }
        evaluate = replace(config.evaluate, name=name, model=model)
        points.append(Point(evaluate=evaluate, says=plan.says, settings=settings))
    return points


def _plans(config: RelearnConfig) -> Iterator[_Plan]:
    for set_name, path in _sets(config).items():
        for samples in sorted(config.samples):
            for steps in sorted(step for step in config.steps if step):
                yield _Plan(
                    set_name=set_name,
                    samples=samples,
                    steps=steps,
                    config=_train_config(
                        config,
                        path,
                        samples=samples,
                        steps=steps,
                        name=f"relearn-{set_name}{samples}-step{steps}",
                    ),
                )


def _probed(config: RelearnConfig) -> FolderModelConfig:
    model = config.evaluate.model
    assert isinstance(model, FolderModelConfig), "the config checks it"
    return model


def _sets(config: RelearnConfig) -> dict[SetName, str]:
    sets: dict[SetName, str] = {"forget": config.data.forget}
    if config.data.retain is not None:
        sets["retain"] = config.data.retain
    return sets


def _train_config(
    config: RelearnConfig, path: str, *, samples: int, steps: int, name: str
) -> TrainConfig:
    """SFT trains on what it calls the retain set: here the records that are relearned."""
    given, images = config.train, config.data.image_folder
    return TrainConfig(
        name=name,
        model=ModelConfig(
            path=absolute_input(_probed(config).path),
            dtype=given.dtype,
            lora=given.lora,
            trainable=given.trainable,
            max_length=given.max_length,
            gradient_checkpointing=given.gradient_checkpointing,
        ),
        data=DataConfig(
            retain=absolute_input(path),
            image_folder=None if images is None else absolute_input(images),
            retain_limit=samples,
        ),
        method=SFTConfig(),
        optim=OptimConfig(
            learning_rate=given.learning_rate,
            batch_size=given.batch_size,
            accumulation=given.accumulation,
            steps=steps,
            schedule="constant",
            warmup_ratio=0.0,
        ),
        engine=given.engine,
        collapse=CollapseConfig(action="off"),  # what it says is measured anyway
        workers=WorkersConfig(gpu=given.gpu),
        seed=config.seed,
    )


def _check(config: RelearnConfig, samples: Sequence[Sample]) -> None:
    """Before anything is trained: what is learned is not asked, and there is something to ask."""
    if not any(sample.subset == "unsafe" for sample in samples):
        raise ConfigError("evaluate: the suite has no unsafe question, so nothing shows relearning")
    if not any("asr" in measures_of(judge) for judge in config.evaluate.judges):
        raise ConfigError(
            "evaluate.judges: none measures asr, by which relearning is told; add one, such as keywords"
        )
    for set_name, path in _sets(config).items():
        records = read_training_set(path, config.data.image_folder)
        if max(config.samples) > len(records):
            raise ConfigError(
                f"samples: {max(config.samples)!r}, but data.{set_name} has {len(records)} records; lower it"
            )
        drawn = {
            index
            for count in config.samples
            for index in draw_subset(len(records), count, config.seed)
        }
        _check_disjoint(set_name, [records[index] for index in sorted(drawn)], samples)


def _check_disjoint(
    set_name: SetName, records: Sequence[LlavaRecord], samples: Sequence[Sample]
) -> None:
    """A record is asked about when a sample shows its image, whatever is asked, or, without image, asks its question."""
    asked = {
        sample.image.digest if sample.image is not None else sample.question for sample in samples
    }
    shared = [record.id for record in records if asked & set(_content(record))]
    if shared:
        more = f" and {len(shared) - _SHOWN} more" if len(shared) > _SHOWN else ""
        raise ConfigError(
            f"data.{set_name}: the suite asks about {len(shared)} of the {len(records)} records that would be learned: "
            f"{', '.join(shared[:_SHOWN])}{more}. Their answers would be recited, not relearned; take them out of the "
            "file, or evaluate on another split"
        )


def _content(record: LlavaRecord) -> list[str]:
    if record.images:
        return [file_digest(image.path) for image in record.images]
    return [question for question, _ in record.turns]


def _trained(
    config: TrainConfig, storage: Storage, store: Store, on_progress: OnNamedProgress
) -> tuple[str, Path]:
    """The run's id and export. A finished run is not trained again, and one that was cut off resumes."""
    identity = run_identity(config)
    run_id = f"{config.name}-{identity[:12]}"
    job = TrainJob(
        config=config,
        run_id=run_id,
        identity=identity,
        export=storage.exports / run_id,
        cache=storage.cache,
        checkpoints=storage.runs / run_id / "checkpoints",
        report_every_s=_REPORT_EVERY_S,
    )

    def work(handle: RunHandle) -> dict[str, Any]:
        def report(report: Report) -> None:
            done = int(report.steps[-1]["step"]) if report.steps else 0
            handle.progress({"done": done, "total": report.total_steps})
            on_progress(config.name, done, report.total_steps)

        return to_tree(train(job, report=report))

    record = run_once(
        store, run_id=run_id, name=config.name, kind="train", config=to_tree(config), work=work
    )
    export = Path(read_record(TrainResult, record.result, of=run_id).export)
    if not export.is_dir():
        raise ConfigError(
            f"run {run_id} is finished, but its export {export} is gone; put it back, or use another seed or storage"
        )
    return run_id, export
