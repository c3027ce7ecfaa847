"""The training benchmark's cases, and the two ways to make their steps: the project's own, and the original's."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from safemirage.config.method import MethodConfig, NPOConfig, RMUConfig, SFTConfig
from safemirage.config.train import OptimConfig
from safemirage.methods.build import build_method
from safemirage.methods.method import LossOutput, Method, StepBatch
from safemirage.models.families.family import trainable_names
from safemirage.training.engine import TorchEngine
from safemirage.training.reference import ReferencePass, reference_logps
from safemirage.training.schedule import parameter_groups
from tests.benchmarks.train_original import OriginalLoss, Terms, npo_terms, rmu_terms
from tests.benchmarks.train_world import FAMILY, Samples, Shape, build_model
from tests.tiny_run import inferring

_OPTIM = OptimConfig(learning_rate=1e-5, max_grad_norm=1.0, steps=1)
_NUM_SAMPLES = 8
_LOG_BATCH = 8


@dataclass(frozen=True, kw_only=True)
class Case:
    """One method and what it trains."""

    name: str
    method: NPOConfig | RMUConfig
    trainable: tuple[str, ...] = ()
    """Patterns, as in the config of a run."""
    lora: bool = False
    """Adapters and the projector, as the original has it."""
    bounds: tuple[float, float] | None = None
    """What the ratio of steps must reach without and with gradient checkpointing."""


def cases(shape: Shape) -> list[Case]:
    npo = NPOConfig(beta=0.9, reduction="mean", group_size=shape.batch, retain_term="original")
    rmu = RMUConfig(hook_layer=shape.hook)
    projector = "{projector}"
    return [
        Case(name="npo_full", method=npo, bounds=(1.75, 1.6)),
        Case(name="npo_lora", method=npo, lora=True, bounds=(1.8, 1.7)),
        Case(name="rmu_full", method=rmu, trainable=(shape.down_proj,), bounds=(2.0, 1.7)),
        Case(
            name="rmu_full_projector",
            method=rmu,
            trainable=(shape.down_proj, projector),
            bounds=(1.8, 1.6),
        ),
        Case(name="npo_full_no_retain_term", method=replace(npo, retain_term="none")),
        Case(name="rmu_lora", method=rmu, lora=True),
        Case(
            name="rmu_lora_middle", method=replace(rmu, hook_layer=shape.layers // 2 - 1), lora=True
        ),
    ]


def policy(case: Case, shape: Shape, device: torch.device, *, checkpointing: bool) -> Any:
    """The model as it is trained, with its initial weights."""
    model = build_model(shape, device)
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    if case.lora:
        config = LoraConfig(
            r=shape.lora_rank,
            lora_alpha=2 * shape.lora_rank,
            target_modules=rf"{FAMILY.language}\..*_proj",
            modules_to_save=[FAMILY.projector],
        )
        return get_peft_model(model, config).train()
    chosen = trainable_names([n for n, _ in model.named_parameters()], FAMILY, case.trainable)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in chosen)
    return model.train()


def nudge(model: nn.Module) -> None:
    """Moves the trained weights off their start, alike on every side, so that no term is trivial."""
    with torch.no_grad():
        for number, parameter in enumerate(p for p in model.parameters() if p.requires_grad):
            generator = torch.Generator(parameter.device).manual_seed(number)
            noise = torch.randn(
                parameter.shape, generator=generator, device=parameter.device, dtype=torch.float32
            )
            parameter += (2e-3 * noise).to(parameter.dtype)


class Side:
    """A model in training and what its losses need. `step` is one optimizer step."""

    def __init__(self, name: str, model: Any, held: list[Any], compute: "Compute") -> None:
        self.name = name
        self.model = model
        self.held = held
        """All that holds weights: the policy, and the reference in whatever form."""
        self.compute = compute
        groups = parameter_groups(model, _OPTIM, projector=FAMILY.projector)
        device = next(model.parameters()).device
        self.engine = TorchEngine(model, groups, _OPTIM, device)

    def loss(self) -> LossOutput:
        return self.engine.loss(self.compute)

    def step(self) -> LossOutput:
        output = self.loss()
        self.engine.backward(output.total)
        self.engine.step(rate_factor=1.0)
        return output

    @contextmanager
    def computing(self, compute: "Compute") -> Iterator[None]:
        """Other losses for a while, with the same model and optimizer."""
        kept, self.compute = self.compute, compute
        try:
            yield
        finally:
            self.compute = kept


Compute = Callable[[nn.Module], LossOutput]


@dataclass(frozen=True, kw_only=True)
class Ours:
    side: Side
    two_batches: Compute
    """The same terms with a retain batch of its own for each of the two that use it."""
    cache_s: float
    """Seconds a sample of the pass that fills the reference cache; 0 where the method needs none. The pass knows no
    gradient checkpointing: it keeps nothing."""


def ours(case: Case, shape: Shape, device: torch.device, *, checkpointing: bool) -> Ours:
    """The project's methods and its engine. One model: the reference is what `prepare` and the cache keep of it."""
    model = policy(case, shape, device, checkpointing=checkpointing)
    method = _prepared(case.method, model)
    sets = {
        name: Samples(shape, _NUM_SAMPLES, seed=seed)
        for seed, name in enumerate(("forget", "retain"))
    }
    known, cache_s = _references(method, model, sets, device)
    batch = step_batch(shape, sets, device, known=known)
    apart = _prepared(replace(case.method, retain_weight=0.0), model)
    tuned = build_method(SFTConfig())
    other = StepBatch(retain=_micro(shape, sets["retain"], device, first=shape.batch))

    def two_batches(module: nn.Module) -> LossOutput:
        first, second = apart.loss(module, batch), tuned.loss(module, other)
        return LossOutput(total=first.total + second.total, parts={**first.parts, **second.parts})

    nudge(model)
    side = Side("ours", model, [model, method, known], partial(method.loss, batch=batch))
    return Ours(side=side, two_batches=two_batches, cache_s=cache_s)


def original(case: Case, shape: Shape, device: torch.device, *, checkpointing: bool) -> Side:
    """The original's terms, each with its own forwards, and a second full copy of the model."""
    model = policy(case, shape, device, checkpointing=checkpointing)
    reference = build_model(shape, device).eval().requires_grad_(False)
    sets = {
        name: Samples(shape, _NUM_SAMPLES, seed=seed)
        for seed, name in enumerate(("forget", "retain"))
    }
    batch = step_batch(shape, sets, device, known={})
    loss = _original_loss(case.method, model, reference)
    nudge(model)

    def compute(module: nn.Module) -> LossOutput:
        terms: Terms = loss(module, batch)
        parts = {name: value.detach() for name, value in terms.items()}
        return LossOutput(total=sum(terms.values(), torch.zeros((), device=device)), parts=parts)

    return Side("original", model, [model, reference], compute)


def step_batch(
    shape: Shape, sets: Mapping[str, Samples], device: torch.device, *, known: Mapping[str, Tensor]
) -> StepBatch:
    def one(name: str) -> Any:
        return _micro(shape, sets[name], device, known=known.get(name))

    return StepBatch(retain=one("retain"), forget=one("forget"))


def _micro(
    shape: Shape,
    samples: Samples,
    device: torch.device,
    *,
    known: Tensor | None = None,
    first: int = 0,
) -> Any:
    indices = list(range(first, first + shape.batch))
    logps_B = None if known is None else known[torch.tensor(indices)]
    return samples.batch(indices, global_indices=indices, device=device, reference_logps_B=logps_B)


def _prepared(config: MethodConfig, model: Any) -> Method:
    method = build_method(config)
    method.prepare(model, seed=0)
    return method


def _references(
    method: Method, model: Any, sets: Mapping[str, Samples], device: torch.device
) -> tuple[dict[str, Tensor], float]:
    """Reference log-probabilities by set, and the seconds a sample that they took at the second time."""
    known: dict[str, Tensor] = {}
    began = perf_counter()
    for repeat in range(2):
        began = perf_counter()
        with TemporaryDirectory() as folder:
            how = ReferencePass(
                cache=Path(folder), device=device, batch_size=_LOG_BATCH, model_key={}
            )
            for name in method.reference_sets:
                known[name] = reference_logps(inferring(model), sets[name], how)  # type: ignore[arg-type]
        if not known:
            return {}, 0.0
        del repeat
    return known, (perf_counter() - began) / sum(map(len, known.values()))


def _original_loss(config: NPOConfig | RMUConfig, model: Any, reference: Any) -> OriginalLoss:
    match config:
        case NPOConfig():
            return npo_terms(
                reference, beta=config.beta, has_retain_term=config.retain_term != "none"
            )
        case RMUConfig():
            # Its own draw is another vector of the same kind; the same one makes the losses comparable.
            drawn = _prepared(config, model).state_dict()["control_vector"]
            return rmu_terms(reference, hook=config.hook_layer, control_H=drawn)
