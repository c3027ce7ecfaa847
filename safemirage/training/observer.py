"""What is looked at between the steps: whether the model has collapsed, and snapshots to be evaluated beside the run."""

from pathlib import Path

from safemirage.text.numbers import percent
from safemirage.training.collapse import CollapseCheck
from safemirage.training.engine import Engine
from safemirage.training.job import StepMetrics, TrainingCollapsed, TrainJob
from safemirage.training.samples.sets import TrainingSets
from safemirage.training.saving.result import RunExport


class Observer:
    """Changes nothing of what is learned. All calls are collective."""

    def __init__(
        self, job: TrainJob, *, engine: Engine, sets: TrainingSets, export: RunExport, total: int
    ) -> None:
        self._config = job.config.collapse
        self._watch = job.config.watch
        self._snapshots = job.snapshots
        self._export = export
        self._total = total
        self.degenerate_at_start: float | None = None
        """Share of degenerate answers before the first step; checkpoints hold it. None: not measured."""
        self._collapse: CollapseCheck | None = None
        if self._config.action != "off" and total >= self._config.every_steps:
            self._collapse = CollapseCheck(
                self._config, sets.retain, engine=engine, seed=job.config.seed
            )

    def begin(self) -> None:
        """Before the first step of this process. A run that resumes without a measured start is measured as it is."""
        if self._collapse is not None and self.degenerate_at_start is None:
            self.degenerate_at_start = self._collapse.look().share

    def look(self, done: int) -> StepMetrics:
        """What the model says after `done` steps, where a look is due.

        Raises:
            TrainingCollapsed: too many of its answers make no sense any more.
        """
        config, before = self._config, self.degenerate_at_start
        due = done % config.every_steps == 0 or done == self._total
        if self._collapse is None or not due:
            return {}
        assert before is not None, "begin comes first"
        look = self._collapse.look()
        if config.action == "stop" and look.share > before + config.max_rise:
            raise TrainingCollapsed(
                f"step {done} of {self._total}: {percent(look.share)} of the answers to retain questions make no sense any "
                f"more, {percent(before)} at the start; {look.example}. Lower optim.learning_rate or method.forget_weight, "
                "raise method.retain_weight, or set collapse.action=report to train on"
            )
        return {"collapse/degenerate_share": look.share}

    def snapshot(self, done: int) -> Path | None:
        """The model after `done` steps as an export, where one is due. The last step's is the run's own export.

        Raises:
            StorageError: it cannot be written.
        """
        if self._watch is None or self._snapshots is None:
            return None
        if done % self._watch.every_steps or done == self._total:
            return None
        return self._export.write_snapshot(self._snapshots / f"step-{done:08d}", step=done)
