"""What is looked at between the steps: whether the model has collapsed, and snapshots to be evaluated beside the run.

Collapse: greedy answers to a few retain questions, and how many of them make no sense any more. A loss does not show it:
unlearning can break what a model says while every loss falls. Nothing random is drawn but the samples, by a generator of
their own, so a run that is looked at learns what one that is not learns.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import GenerationConfig

from safemirage.config.train import CollapseConfig
from safemirage.methods.forward import base_model
from safemirage.models.prompts import stop_ids
from safemirage.text.degenerate import degeneration
from safemirage.text.numbers import percent
from safemirage.training.engine import Engine
from safemirage.training.job import StepMetrics, TrainingCollapsed, TrainJob
from safemirage.training.samples.batches import SampleSet
from safemirage.training.samples.order import draw_subset
from safemirage.training.samples.sets import TrainingSets
from safemirage.training.saving.result import RunExport
from safemirage.training.workers import problems_of_all, sum_over_workers

_SHOWN_CHARACTERS = 120


@dataclass(frozen=True, kw_only=True)
class Look:
    """What was seen of the model's answers; the same on every worker."""

    share: float
    """The share of answers that are degenerate, 0 to 1."""
    example: str = ""
    """A degenerate answer, and what is wrong with it."""


class CollapseCheck:
    """Asks the same questions each time; the workers share them out."""

    def __init__(
        self, config: CollapseConfig, samples: SampleSet, *, engine: Engine, seed: int
    ) -> None:
        self._config = config
        self._samples = samples
        self._engine = engine
        # Whether the vision tower runs must not differ among the workers of ZeRO-3.
        with_image = [i for i, sample in enumerate(samples.samples) if sample.images]
        candidates = with_image or list(range(len(samples)))
        drawn = draw_subset(len(candidates), min(config.samples, len(candidates)), seed)
        self._indices = [candidates[index] for index in drawn]

    def look(self) -> Look:
        """Asks the model as it is now. Collective."""
        world = self._engine.world_size
        rounds = -(-len(self._indices) // world)
        found = []
        for number in range(rounds):
            # A worker with nothing left asks the first question again: under ZeRO-3 all must take part.
            place = number * world + self._engine.rank
            problem = self._problem(self._indices[place if place < len(self._indices) else 0])
            if problem is not None and place < len(self._indices):
                found.append(problem)
        count = sum_over_workers(torch.tensor([float(len(found))], device=self._engine.device))
        examples = problems_of_all(found)
        return Look(
            share=count.item() / len(self._indices), example=examples[0] if examples else ""
        )

    def _problem(self, index: int) -> str | None:
        """What is wrong with the answer to a sample's question."""
        samples = self._samples
        inputs = samples.prompt(index, device=self._engine.device)
        ids = self._engine.infer(lambda module: self._answer(module, inputs))
        answer = samples.prompter.decode(ids)
        problem = degeneration(answer, samples.answer(index))
        if problem is None:
            return None
        return f"{samples.samples[index].id}: {problem}: {answer[:_SHOWN_CHARACTERS]!r}"

    def _answer(self, module: nn.Module, inputs: dict[str, Tensor]) -> list[int]:
        prompter = self._samples.prompter
        how = GenerationConfig(
            max_new_tokens=self._config.new_tokens,
            do_sample=False,
            use_cache=True,
            eos_token_id=sorted(stop_ids(base_model(module), prompter)),
            pad_token_id=prompter.pad_token_id,
        )
        generate = module.generate
        assert callable(generate)
        output_BT: Tensor = generate(
            **inputs, generation_config=how, synced_gpus=self._engine.world_size > 1
        )
        prompt_tokens = inputs["input_ids"].shape[1]
        ids: list[int] = output_BT[0, prompt_tokens:].tolist()
        return ids


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
