"""The training loop: from a config to an exported model. Knows tensors and a `report` callable, and no Ray.

    summary = train(job, report=lambda report: print(report.steps[-1]))

One global order of samples per seed; losses are shares of the global batch, so what is learned does not depend on the
number of workers; from a checkpoint the run resumes exactly where it was.
"""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from safemirage.config.train import TrainConfig
from safemirage.methods.build import build_method
from safemirage.methods.method import Batch, Method, StepBatch
from safemirage.models.loading import LoadedModel, load_for_training
from safemirage.training.engine import Engine, build_engine
from safemirage.training.job import (
    Report,
    StepMetrics,
    TrainingDiverged,
    TrainJob,
    TrainSummary,
)
from safemirage.training.observer import Observer
from safemirage.training.reference import ReferencePass, reference_logps
from safemirage.training.samples.order import Division, GlobalOrder
from safemirage.training.samples.sets import ORDERS, TrainingSets, read_sets
from safemirage.training.saving.result import RunExport
from safemirage.training.saving.saver import RunState, Saver, seed_everything
from safemirage.training.schedule import rate_factor, total_steps
from safemirage.training.workers import rank, sum_over_workers
from safemirage.training.zero import parting

_REFERENCE_BATCH = 8


@dataclass(kw_only=True)
class _Progress:
    """What the loop carries from step to step beside what it trains."""

    history: list[StepMetrics] = field(default_factory=list)
    """The metrics of every tracked step since the first; checkpoints hold them."""
    reported: float = field(default_factory=time.monotonic)
    pending: list[StepMetrics] = field(default_factory=list)


def train(job: TrainJob, *, report: Callable[[Report], None]) -> TrainSummary:
    """Trains and exports. Collective: every worker calls it.

    Raises:
        ConfigError, DataError, SampleError, ExportError: inputs that cannot be used.
        TrainingDiverged: a loss is not finite any more.
        TrainingCollapsed: the model's answers make no sense any more.
        CheckpointError: the newest checkpoint is damaged, or not this run's.
        StorageError: a checkpoint or the export cannot be written.
    """
    config = job.config
    # Before the model is loaded: new adapter weights are drawn, and must be the same on every worker.
    seed_everything(config.seed, rank=rank())
    device = _device(config)
    loaded = load_for_training(config.model, take=parting(config, device))
    # After the model: samples are made of token ids and pixels, which depend on its processor.
    sets = read_sets(config, loaded)
    method = build_method(config.method)
    # Before an engine takes the model, because the engine takes the method's copies of it too.
    method.prepare(loaded.model, seed=config.seed)
    engine = build_engine(
        loaded.model,
        config,
        projector=loaded.family.projector,
        device=device,
        frozen=method.frozen,
    )
    # The reference is the model as it is now, so its log-probabilities are taken before the first step.
    for name in method.reference_sets:
        sets.reference_logps[name] = reference_logps(
            engine.infer, sets.by_name[name], _reference_pass(job, loaded, device)
        )
    export = RunExport(job, loaded=loaded, engine=engine, sets=sets)
    loop = _Loop(job, engine=engine, method=method, sets=sets, export=export, report=report)
    history = loop.run()
    export.write_final(history, resumed_from=loop.resumed_from)
    return TrainSummary(
        steps=loop.total,
        resumed_from=loop.resumed_from,
        export=str(job.export),
        metrics=history[-1],
    )


class _Loop:
    """The optimizer steps of one run."""

    def __init__(
        self,
        job: TrainJob,
        *,
        engine: Engine,
        method: Method,
        sets: TrainingSets,
        export: RunExport,
        report: Callable[[Report], None],
    ) -> None:
        self._job = job
        self._config = job.config
        self._engine = engine
        self._method = method
        self._sets = sets
        self._report = report
        self._progress = _Progress()
        self._saver = Saver(job, engine=engine)
        self.resumed_from = 0
        optim = self._config.optim
        # An epoch is one pass over the retain set; the other sets are drawn as often as it takes.
        self.total = total_steps(optim, num_retain=len(sets.retain))
        self._division = Division(
            batch_size=optim.batch_size,
            world=engine.world_size,
            accumulation=optim.accumulation,
            group_size=self._config.group_size,
        )
        # Orders are made of global indices, which are the same on every worker; each then takes its own share of them.
        self._orders = {name: self._order(ORDERS[name]) for name in sets.by_name}
        self._observer = Observer(job, engine=engine, sets=sets, export=export, total=self.total)

    def run(self) -> list[StepMetrics]:
        """All steps that are left; the metrics of every tracked step of the run."""
        self.resumed_from = self._resume()
        self._observer.begin()
        # A resumed run has sent the snapshot of its start already.
        if self.resumed_from == 0 and (snapshot := self._observer.snapshot(0)) is not None:
            self._send(None, snapshot)
        for step in range(self.resumed_from, self.total):
            metrics = self._step(step)
            self._tell(step, metrics | self._observer.look(step + 1))
        return self._progress.history

    def _order(self, stream: str) -> GlobalOrder:
        """Sets of one order are drawn row by row, so its lengths are those of the set that it is named after."""
        samples = self._sets.by_name[stream]
        return GlobalOrder(
            num_samples=len(samples),
            batch_size=self._config.optim.batch_size,
            seed=self._config.seed,
            stream=stream,
            lengths=samples.lengths if self._config.data.group_by_length else None,
        )

    def _step(self, step: int) -> StepMetrics:
        started = time.monotonic()
        sums: dict[str, Tensor] = {}
        for batch in self._batches(step):
            # The losses of micro-batches are shares of the global batch, so they add up to it.
            output = self._engine.loss(partial(self._method.loss, batch=batch))
            self._engine.backward(output.total)
            for name, value in {"loss": output.total.detach(), **output.parts}.items():
                # Kept on the device: a transfer at each micro-batch would wait for the GPU.
                sums[name] = sums[name] + value if name in sums else value
        # Before the weights change: a loss that is not finite must not reach them.
        losses = self._reduced(step, sums)
        factor = rate_factor(self._config.optim, step=step, total=self.total)
        norm = self._engine.step(rate_factor=factor)
        elapsed = time.monotonic() - started
        return {
            "step": float(step + 1),
            **losses,
            "data/truncated_samples": float(self._sets.num_truncated),
            "optim/learning_rate": self._config.optim.learning_rate * factor,
            "optim/gradient_norm": norm,
            "speed/samples_per_s": self._num_samples() / elapsed,
            **_memory(self._engine.device),
        }

    def _batches(self, step: int) -> list[StepBatch]:
        micro = {
            name: self._micro_batches(name, order.step_indices(step))
            for name, order in self._orders.items()
        }
        return [
            StepBatch(**dict(zip(micro, row, strict=True)))
            for row in zip(*micro.values(), strict=True)
        ]

    def _micro_batches(self, name: str, indices: Sequence[int]) -> list[Batch]:
        """This worker's part of a step's batch of one set, `indices` being those of all workers."""
        samples, known = self._sets.by_name[name], self._sets.reference_logps.get(name)
        return [
            samples.batch(
                part,
                global_indices=indices,
                device=self._engine.device,
                reference_logps_B=None if known is None else known[torch.tensor(part)],
            )
            # Tokens and samples are counted over `global_indices`, of which this worker sees only its part.
            for part in self._division.share(indices, self._engine.rank)
        ]

    def _reduced(self, step: int, sums: Mapping[str, Tensor]) -> StepMetrics:
        """The losses of the global batch, on every worker. Raises TrainingDiverged where one is not finite."""
        # One collective for all parts; in float64, so that the number of workers hardly shows in the digits.
        values = sum_over_workers(torch.stack([value.double() for value in sums.values()])).tolist()
        losses = dict(zip(sums, values, strict=True))
        if not np.isfinite(values).all():
            raise TrainingDiverged(
                f"step {step + 1} of {self.total}: a loss is not finite: {losses}. Lower optim.learning_rate, "
                "raise optim.warmup_ratio, or set optim.max_grad_norm"
            )
        return losses

    def _num_samples(self) -> int:
        return self._config.optim.batch_size * len(self._sets.by_name)

    def _tell(self, step: int, metrics: StepMetrics) -> None:
        """Saves what is due to be saved, and reports it, the end, or what was gathered for long enough."""
        done = step + 1
        progress = self._progress
        last = done == self.total
        if last or done % self._config.tracking.every_steps == 0:
            progress.pending.append(metrics)
            progress.history.append(metrics)
        snapshot = self._observer.snapshot(done)
        report_due, save_due, is_written = (True, False, True) if last else self._agreed(done)
        checkpoint = None
        # The last step needs no checkpoint: the export follows, and a restart in between repeats a few steps.
        if save_due:
            checkpoint = self._saver.save(self._state(done))
        elif self._saver.is_open and is_written:
            checkpoint = self._saver.collect()
        if checkpoint is not None or snapshot is not None or report_due:
            self._send(checkpoint, snapshot)

    def _agreed(self, done: int) -> tuple[bool, bool, bool]:
        """Whether a report and a checkpoint are due, and whether all have written the one before; alike on every worker.

        Rank 0's clock decides for all, because reporting and saving are collective.
        """
        waited = time.monotonic() - self._progress.reported
        is_first = self._engine.rank == 0
        flags = [
            is_first and bool(self._progress.pending) and waited >= self._job.report_every_s,
            is_first and self._saver.is_due,
            self._saver.is_writing,
        ]
        sums = torch.tensor([float(flag) for flag in flags], device=self._engine.device)
        report_due, save_due, num_writing = sum_over_workers(sums).tolist()
        every = self._config.checkpoint.every_steps
        by_steps = every is not None and done % every == 0
        return bool(report_due), by_steps or bool(save_due), not num_writing

    def _send(self, checkpoint: Path | None, snapshot: Path | None) -> None:
        self._report(
            Report(
                steps=self._progress.pending,
                total_steps=self.total,
                checkpoint=checkpoint,
                snapshot=snapshot,
            )
        )
        self._progress.pending = []
        self._progress.reported = time.monotonic()

    def _state(self, done: int) -> RunState:
        return RunState(
            step=done,
            # Copies, because the file is written while the run goes on.
            method={name: value.clone() for name, value in self._method.state_dict().items()},
            history=list(self._progress.history),
            degenerate_at_start=self._observer.degenerate_at_start,
        )

    def _resume(self) -> int:
        """Takes up the newest checkpoint; the number of finished steps."""
        state = self._saver.resume()
        if state is None:
            return 0
        self._method.load_state_dict({name: value.clone() for name, value in state.method.items()})
        self._progress.history = state.history
        self._observer.degenerate_at_start = state.degenerate_at_start
        # A kill may have come between the checkpoint and the report of its steps; who takes reports knows which are new.
        self._progress.pending = list(state.history)
        return state.step


def _reference_pass(job: TrainJob, loaded: LoadedModel, device: torch.device) -> ReferencePass:
    return ReferencePass(
        cache=job.cache,
        device=device,
        batch_size=_REFERENCE_BATCH,
        model_key={
            "weights": loaded.weights_digest,
            "dtype": job.config.model.dtype,
            "attention": loaded.attention,
        },
    )


def _device(config: TrainConfig) -> torch.device:
    if not config.workers.gpu:
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def _memory(device: torch.device) -> StepMetrics:
    """Resident memory of this process, and the most that tensors took on the device, in MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    found = {"memory/rss_mb": pages * os.sysconf("SC_PAGE_SIZE") / 2**20}
    if device.type == "cuda":
        found["memory/cuda_mb"] = torch.cuda.max_memory_allocated(device) / 2**20
    return found
