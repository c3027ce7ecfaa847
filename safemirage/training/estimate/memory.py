"""How much memory a run takes on each GPU, from its config and the model's shape: pure arithmetic, before anything starts.

    estimate = estimate_memory(config, read_shape(config), tokens=2048)

Model states are counted exactly. Mixed-precision Adam is ZeRO's 16 bytes a trained parameter: 2 for the weight, 2 for
its gradient, 12 for float32 master and moments (Rajbhandari et al. 2020, section 3.1). Of activations what autograd must
keep is counted (Korthikanti et al. 2022, section 4, for a Llama layer with fused attention), for every graph that is
alive when the backward pass begins: a step's loss is one sum, so those of the forget and the retain set are there at once.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from safemirage.config.method import RMUConfig, needed_sets
from safemirage.config.train import DeepSpeedEngineConfig, TrainConfig

_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_FLOAT32 = 4
_MOMENT_BYTES = 8
GIB = 2**30
USUAL_GIB = (16, 24, 32, 40, 48, 80, 96, 141, 192)
"""The memory of the GPUs that one meets."""
_BUCKET = 500_000_000
"""Gradients that DeepSpeed gathers in one buffer before it reduces them, and keeps the room for (0.19.8)."""
_LIVE = 1_000_000_000
"""Parameters that ZeRO-3 lets be whole at a time (0.19.8)."""
_CONTEXT_BYTES = GIB
_SPARE = 1.05
"""What a CUDA context takes, and by how much allocators round up."""
_COSTS = {
    "stage": 1.1,
    "gradient_checkpointing": 1.33,
    "offload_optimizer": 1.6,
    "offload_parameters": 2.0,
}
"""About how many times as long a step takes with each: ZeRO-3 moves half as much again over the wires, checkpointing
makes four passes of three, offloading goes through the host's bus. They only decide what is proposed first."""


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """What the estimate needs to know of a model; numbers of elements."""

    parameters: int
    """Number of all parameters, adapters included."""
    trained: int
    copied: int
    """Trained tensors whose initial values the method keeps beside them (RMU and KL without adapters)."""
    hidden: int
    intermediate: int
    attention: int
    """Widths of queries, keys and values together."""
    vocabulary: int
    num_layers: int
    first_layer: int
    """The first decoder layer that gradients pass through; `num_layers` where none is."""
    image_tokens: int
    """Tokens of one image; 0 where their number depends on the image."""


@dataclass(frozen=True, kw_only=True)
class MemoryEstimate:
    """Bytes on each GPU."""

    weights: int
    gradients: int
    optimizer: int
    reference: int
    activations: int
    """What autograd keeps of one micro-batch, of all sets together."""
    logits: int
    """Logits of the supervised tokens of the widest set, their float32 copy, and the gradients of both."""
    buffers: int
    """What DeepSpeed gathers gradients and, under ZeRO-3, whole weights in."""
    stepping: int
    """What the optimizer's step takes beside the states; activations are gone by then."""
    tokens: int
    """Samples' length that the activations are counted for, image tokens included."""
    on_host: int
    """Bytes that are offloaded to each worker's host."""

    @property
    def total(self) -> int:
        """The most that is alive at once: at the start of a backward pass, or in the optimizer's step."""
        states = self.weights + self.gradients + self.optimizer + self.reference
        return states + max(self.activations + self.logits + self.buffers, self.stepping)

    def fits(self, gpu_bytes: float) -> bool:
        """Whether it fits a GPU beside what frameworks keep for themselves."""
        return self.total * _SPARE + _CONTEXT_BYTES <= gpu_bytes


def estimate_memory(config: TrainConfig, shape: ModelShape, *, tokens: int) -> MemoryEstimate:
    """The memory of one worker of `config.workers.count`, its samples `tokens` long."""
    engine, size = config.engine, _BYTES[config.model.dtype]
    zero = engine if isinstance(engine, DeepSpeedEngineConfig) else None
    stage = zero.stage if zero is not None else 0
    workers = config.workers.count
    weights = _part(shape.parameters * size, workers if stage == 3 else 1)
    gradients = _part(shape.trained * size, workers if stage >= 2 else 1)
    # A partitioned optimizer keeps masters of float32 weights too.
    masters = 0 if stage == 0 and size == 4 else _FLOAT32
    owned = _part(shape.trained, workers if stage >= 1 else 1)
    optimizer = owned * (masters + _MOMENT_BYTES)
    on_host = 0
    stepping = _stepping(config, owned) if stage >= 1 else 0
    if zero is not None and zero.offload_optimizer:
        on_host += gradients + optimizer
        gradients = optimizer = stepping = 0
    if zero is not None and zero.offload_parameters:
        on_host += weights
        weights = 0
    return MemoryEstimate(
        weights=weights,
        gradients=gradients,
        optimizer=optimizer,
        # The method's copies are divided as the weights are.
        reference=_part(shape.copied * size, workers if stage == 3 else 1),
        activations=_activations(config, shape, tokens) * size,
        logits=_logits(config, shape, tokens),
        buffers=_buffers(config, shape, stage) * size,
        stepping=stepping,
        tokens=tokens,
        on_host=on_host,
    )


def shortest_sample(config: TrainConfig, shape: ModelShape) -> int:
    """Tokens that a sample with an image has at the least."""
    return max(1, min(shape.image_tokens, config.model.max_length))


def memory_refusal(config: TrainConfig, shape: ModelShape, *, gpu_bytes: int) -> str | None:
    """Why a run cannot fit a GPU of that size, with the numbers; None where it may.

    Only what the run cannot do without counts: model states, and activations of the shortest samples.
    """
    least = estimate_memory(config, shape, tokens=shortest_sample(config, shape))
    if least.total <= gpu_bytes:
        return None
    proposed = cheapest_fit(config, shape, gpu_bytes=gpu_bytes)
    return (
        f"memory: a worker needs at least {_gib(least.total)} and the smallest GPU has {_gib(gpu_bytes)}: "
        f"{describe(least)}. {_way_out(config, proposed)}"
    )


def memory_report(config: TrainConfig, shape: ModelShape, *, gpu_bytes: float | None) -> list[str]:
    """The estimate for the shortest samples with an image and for the longest, and the cheapest setting that fits.

    Args:
        gpu_bytes: of the smallest GPU at hand; None where there is none, which then asks for the usual sizes.
    """
    lengths = (shortest_sample(config, shape), config.model.max_length)
    least, most = (estimate_memory(config, shape, tokens=tokens) for tokens in lengths)
    lines = [
        f"{shape.parameters:,} parameters, {shape.trained:,} of them trained; each worker holds",
        *(f"  {_gib(one.total)}: {describe(one)}" for one in (least, most)),
    ]
    if gpu_bytes is None:
        lines.append("verdict: this machine has no GPU; the cheapest settings by its size")
        sizes = [size * GIB for size in USUAL_GIB[:6]]
        return lines + [f"  {_gib(size)}: {_proposal(config, shape, size)}" for size in sizes]
    has = f"this machine's smallest GPU has {_gib(int(gpu_bytes))}"
    if most.fits(gpu_bytes):
        return [*lines, f"verdict: fits, {has}"]
    how = "fits with short samples alone" if least.fits(gpu_bytes) else "does not fit"
    return [*lines, f"verdict: {how}, {has}; {_proposal(config, shape, gpu_bytes)}"]


def cheapest_fit(config: TrainConfig, shape: ModelShape, *, gpu_bytes: float) -> list[str] | None:
    """The overrides of the setting that takes the least time of those that fit with the longest samples; an empty list
    where the config fits as it is, None where nothing does."""
    for _, overrides, setting in sorted(_settings(config), key=lambda item: item[0]):
        if estimate_memory(setting, shape, tokens=config.model.max_length).fits(gpu_bytes):
            return overrides
    return None


def describe(estimate: MemoryEstimate) -> str:
    """The estimate in one line with every part."""
    parts = {
        "weights": estimate.weights,
        "gradients": estimate.gradients,
        "optimizer": estimate.optimizer,
        "reference": estimate.reference,
        f"activations of {estimate.tokens} tokens a sample": estimate.activations,
        "logits": estimate.logits,
        "buffers": estimate.buffers,
        "optimizer's step": estimate.stepping,
    }
    line = ", ".join(f"{name} {_gib(value)}" for name, value in parts.items() if value)
    return f"{line}, offloaded {_gib(estimate.on_host)}" if estimate.on_host else line


def _settings(config: TrainConfig) -> Iterator[tuple[float, list[str], TrainConfig]]:
    """(about how much longer a step takes, overrides, config) of every way to share out, recompute or offload more."""
    engine, model = config.engine, config.model
    if not isinstance(engine, DeepSpeedEngineConfig):
        engine = DeepSpeedEngineConfig()
    stages: tuple[Literal[0, 1, 2, 3], ...] = (0, 1, 2, 3)
    for stage in stages[engine.stage :]:
        for recompute in {model.gradient_checkpointing, True}:
            for offload in ("none", "optimizer", "parameters"):
                optimizer = engine.offload_optimizer or offload != "none"
                parameters = engine.offload_parameters or offload == "parameters"
                if (optimizer and not stage) or (parameters and stage < 3):
                    continue
                chosen = {
                    "engine.stage": (engine.stage, stage),
                    "model.gradient_checkpointing": (model.gradient_checkpointing, recompute),
                    "engine.offload_optimizer": (engine.offload_optimizer, optimizer),
                    "engine.offload_parameters": (engine.offload_parameters, parameters),
                }
                changed: dict[str, object] = {
                    k: new for k, (old, new) in chosen.items() if old != new
                }
                if config.engine.name == "torch":
                    changed = {"engine.name": "deepspeed", **changed}
                cost = 1.0
                for key in changed:
                    cost *= _COSTS.get(key.rpartition(".")[2], 1.0)
                yield cost, [f"{k}={_yaml(v)}" for k, v in changed.items()], replace(
                    config,
                    model=replace(model, gradient_checkpointing=recompute),
                    engine=replace(
                        engine,
                        stage=stage,
                        offload_optimizer=optimizer,
                        offload_parameters=parameters,
                    ),
                )  # fmt: skip


def _yaml(value: object) -> str:
    return str(value).lower()


def _proposal(config: TrainConfig, shape: ModelShape, gpu_bytes: float) -> str:
    found = cheapest_fit(config, shape, gpu_bytes=gpu_bytes)
    return "fits as it is" if found == [] else _way_out(config, found)


def _way_out(config: TrainConfig, proposed: list[str] | None) -> str:
    if proposed:
        return f"the cheapest setting that fits: {' '.join(proposed)}"
    ways = []
    if config.model.dtype == "float32":
        ways.append("model.dtype=bfloat16")
    ways.append(f"workers.count above {config.workers.count}")
    if config.model.lora is None:
        ways.append("model.lora")
    if config.optim.batch_size > config.workers.count * config.optim.accumulation:
        ways.append(f"optim.accumulation above {config.optim.accumulation}")
    ways.append("a smaller model.max_length")
    return (
        f"no stage, offload or checkpointing fits the longest samples; ways out: {', '.join(ways)}"
    )


def _micro_batch(config: TrainConfig) -> int:
    return max(1, config.optim.batch_size // (config.workers.count * config.optim.accumulation))


def _activations(config: TrainConfig, shape: ModelShape, tokens: int) -> int:
    """Numbers that autograd keeps of a micro-batch of every set that the method runs."""
    positions = _micro_batch(config) * tokens
    # Residual stream and both norms' outputs twice over, attention's output; queries, keys, values; the gated MLP's
    # gate, activation, up and product.
    layer = 5 * shape.hidden + shape.attention + 4 * shape.intermediate
    kept = 0
    for last in _graphs(config, shape):
        layers = max(0, last - shape.first_layer)
        if config.model.gradient_checkpointing:
            kept += positions * layers * shape.hidden
        else:
            kept += positions * layers * layer
    # The backward pass makes one layer's activations anew at a time.
    again = config.model.gradient_checkpointing and shape.first_layer < shape.num_layers
    return kept + positions * layer * again


def _graphs(config: TrainConfig, shape: ModelShape) -> Iterator[int]:
    """The decoder layers that each of a step's graphs reaches up to: a graph a set."""
    method = config.method
    for name in ("retain", *needed_sets(method)):
        if name == "forget" and isinstance(method, RMUConfig):
            # Forget activations go no further than the layer that is steered.
            yield min(shape.num_layers, method.hook_layer + 1) if method.forget_weight else 0
        elif name == "retain" and not (method.retain_weight or method.kl_weight):
            # RMU still holds the retain activations in place, up to the same layer.
            yield method.hook_layer + 1 if isinstance(method, RMUConfig) and method.alpha else 0
        elif name == "forget" and method.name == "idk":
            yield 0  # only its questions are asked, with other answers
        else:
            yield shape.num_layers


def _logits(config: TrainConfig, shape: ModelShape, tokens: int) -> int:
    """Logits are made at supervised positions only: at most all that are no image."""
    positions = _micro_batch(config) * max(0, tokens - shape.image_tokens)
    size = _BYTES[config.model.dtype]
    # As the model makes them; the loss takes them in float32; each has a gradient. Only one set's are alive in full.
    copies = 2 * size if size == _FLOAT32 else 2 * size + 2 * _FLOAT32
    return positions * shape.vocabulary * copies


def _buffers(config: TrainConfig, shape: ModelShape, stage: int) -> int:
    """Numbers in DeepSpeed's buffers. On a CPU only what is written to is taken."""
    if stage == 0:
        return 0
    bucket = _BUCKET if config.workers.gpu else min(_BUCKET, shape.trained)
    return bucket + (min(_LIVE, shape.parameters) if stage == 3 else 0)


def _stepping(config: TrainConfig, owned: int) -> int:
    """Bytes of a partitioned step: a float32 copy of the gradients, and PyTorch's own AdamW a temporary of that size."""
    assert isinstance(config.engine, DeepSpeedEngineConfig)
    wanted = config.engine.optimizer
    compiled = config.workers.gpu if wanted == "auto" else wanted == "compiled"
    return owned * _FLOAT32 * (1 if compiled else 2)


def _part(total: int, parts: int) -> int:
    return -(-total // parts)


def _gib(num_bytes: float) -> str:
    return f"{num_bytes / GIB:.1f} GiB" if num_bytes >= GIB / 10 else f"{num_bytes / 2**20:.1f} MiB"
