"""Collapse in training: greedy answers to a few retain questions, and how many of them make no sense any more.

A loss does not show it: unlearning can break what a model says while every loss falls. Nothing random is drawn but
the samples, by a generator of their own, so a run that is looked at learns what one that is not learns.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import GenerationConfig

from safemirage.config.train import CollapseConfig
from safemirage.methods.forward import base_model
from safemirage.models.prompts import stop_ids
from safemirage.text.degenerate import degeneration
from safemirage.training.engine import Engine
from safemirage.training.samples.batches import SampleSet
from safemirage.training.samples.order import draw_subset
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
