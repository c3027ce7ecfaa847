"""What a run leaves: an export of the model, with the run's card in it, and snapshots of the model on its way."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from safemirage.config.loading.load import to_tree
from safemirage.models.export import ExportRecord, merge_export, write_export
from safemirage.models.loading import LoadedModel
from safemirage.models.manifest import BaseModel
from safemirage.training.engine import Engine
from safemirage.training.job import StepMetrics, TrainJob
from safemirage.training.samples.sets import TrainingSets
from safemirage.training.saving.card import DataSummary, RunSummary, write_card
from safemirage.training.saving.disk import storing
from safemirage.training.workers import on_first_worker, rank, sum_over_workers
from safemirage.versions import current_commit


class RunExport:
    """Writes the model of a run. All calls are collective.

    Raises:
        StorageError: a folder cannot be written; the run's last checkpoint stays.
    """

    def __init__(
        self, job: TrainJob, *, loaded: LoadedModel, engine: Engine, sets: TrainingSets
    ) -> None:
        self._job = job
        self._loaded = loaded
        self._engine = engine
        self._sets = sets

    def write_final(self, history: Sequence[StepMetrics], *, resumed_from: int) -> None:
        """Writes the export, with its card."""

        def record() -> ExportRecord:
            summary = self._summary(history, resumed_from)
            return replace(self._record(), metrics=history[-1], notes=write_card(summary))

        self._write(self._job.export, record)

    def write_snapshot(self, folder: Path, *, step: int) -> Path:
        """The model as it is after `step` steps. One that an earlier attempt has left is taken as it is."""
        there = float(rank() == 0 and folder.is_dir())
        if not sum_over_workers(torch.tensor([there], device=self._engine.device)).item():
            run_id = f"{self._job.run_id}-step{step}"
            self._write(folder, lambda: replace(self._record(), run_id=run_id))
        return folder

    def _write(self, folder: Path, record: Callable[[], ExportRecord]) -> None:
        config, loaded = self._job.config, self._loaded
        state = self._engine.state_dict()

        def write() -> None:
            with storing(folder):
                write_export(
                    folder,
                    model=loaded.model,
                    processor=loaded.processor,
                    state_dict=state,
                    family=loaded.family,
                    record=record(),
                )
                if config.model.lora is not None and config.model.lora.merge:
                    merge_export(folder)

        on_first_worker(write)

    def _record(self) -> ExportRecord:
        job, config = self._job, self._job.config
        return ExportRecord(
            run_id=job.run_id,
            identity=job.identity,
            method=config.method.name,
            base=BaseModel(
                path=config.model.path,
                revision=config.model.revision,
                weights_digest=self._loaded.weights_digest,
            ),
            config=to_tree(config),
            metrics={},
            git_commit=current_commit(),
        )

    def _summary(self, history: Sequence[StepMetrics], resumed_from: int) -> RunSummary:
        return RunSummary(
            run_id=self._job.run_id,
            identity=self._job.identity,
            config=self._job.config,
            data={
                name: DataSummary(
                    digest=samples.digest,
                    num_samples=len(samples),
                    num_truncated=samples.num_truncated,
                )
                for name, samples in self._sets.by_name.items()
            },
            history=history,
            total_steps=int(history[-1]["step"]),
            resumed_from=resumed_from,
            attention=self._loaded.attention,
            git_commit=current_commit(),
        )
