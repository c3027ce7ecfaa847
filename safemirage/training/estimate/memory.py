"""How much memory a run takes on each GPU, from its config and the model's shape: pure arithmetic, before anything starts.

    estimate = estimate_memory(config, read_shape(config))

Model states are counted exactly. Mixed-precision Adam is ZeRO's 16 bytes a trained parameter: 2 for the weight, 2 for
its gradient, 12 for float32 master and moments (Rajbhandari et al. 2020, section 3.1). Activations are a lower bound:
what autograd must keep of one forward pass (the count of Korthikanti et al. 2022, section 4, for a Llama layer with
fused attention); a framework's buffers, fragmentation and temporary tensors come on top.
"""

from dataclasses import dataclass

from safemirage.config.train import DeepSpeedEngineConfig, TrainConfig

_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_MASTER_BYTES = 4
_MOMENT_BYTES = 8
GIB = 2**30
_USUAL_GIB = (16, 24, 32, 40, 48, 80, 96, 141, 192)
"""The memory of the GPUs that one meets."""


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
    layers: int
    """Decoder layers that gradients pass through: those from the first trained one on."""
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
    """Activations of one forward pass over one micro-batch of one set."""
    tokens: int
    """Samples' length that the activations are counted for, image tokens included."""
    on_host: int
    """Bytes that are offloaded to each worker's host."""

    @property
    def total(self) -> int:
        states = self.weights + self.gradients + self.optimizer + self.reference
        return states + self.activations


def estimate_memory(config: TrainConfig, shape: ModelShape, *, tokens: int) -> MemoryEstimate:
    """The memory of one worker of `config.workers.count`, its samples `tokens` long."""
    engine, size = config.engine, _BYTES[config.model.dtype]
    zero = engine if isinstance(engine, DeepSpeedEngineConfig) else None
    stage = zero.stage if zero is not None else 0
    workers = config.workers.count
    weights = _part(shape.parameters * size, workers if stage == 3 else 1)
    gradients = _part(shape.trained * size, workers if stage >= 2 else 1)
    # A partitioned optimizer keeps masters of float32 weights too.
    masters = 0 if stage == 0 and size == 4 else _MASTER_BYTES
    optimizer = _part(shape.trained * (masters + _MOMENT_BYTES), workers if stage >= 1 else 1)
    on_host = 0
    if zero is not None and zero.offload_optimizer:
        on_host += gradients + optimizer
        gradients = optimizer = 0
    if zero is not None and zero.offload_parameters:
        on_host += weights
        weights = 0
    return MemoryEstimate(
        weights=weights,
        gradients=gradients,
        optimizer=optimizer,
        reference=shape.copied * size,
        activations=_activations(config, shape, tokens) * size,
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
    return (
        f"memory: a worker needs at least {_gib(least.total)} and a GPU has {_gib(gpu_bytes)}: {describe(least)}. "
        f"{_way_out(config)}"
    )


def memory_verdict(least: MemoryEstimate, most: MemoryEstimate, *, gpu_bytes: float | None) -> str:
    """Whether a run fits, in a sentence.

    Args:
        least, most: of the shortest samples and of the longest.
        gpu_bytes: of the smallest GPU at hand; None where there is none, which then names the usual sizes.
    """
    margin = "what frameworks keep beside it, some GiB, comes on top"
    if gpu_bytes is not None:
        has = f"this machine's smallest GPU has {_gib(int(gpu_bytes))}"
        if least.total > gpu_bytes:
            return f"verdict: does not fit, {has}"
        if most.total > gpu_bytes:
            return f"verdict: fits with short samples alone, {has}; {margin}"
        return f"verdict: fits, {has}; {margin}"
    holding = [size for size in _USUAL_GIB if most.total < size * GIB]
    if not holding:
        return f"verdict: fits no GPU of {_USUAL_GIB[-1]} GiB or less with the longest samples; more workers, ZeRO or LoRA"
    return f"verdict: this machine has no GPU; one of {holding[0]} GiB could hold the longest samples; {margin}"


def describe(estimate: MemoryEstimate) -> str:
    """The estimate in one line with every part."""
    parts = {
        "weights": estimate.weights,
        "gradients": estimate.gradients,
        "optimizer": estimate.optimizer,
        "reference": estimate.reference,
        f"activations of {estimate.tokens} tokens a sample": estimate.activations,
    }
    line = ", ".join(f"{name} {_gib(value)}" for name, value in parts.items())
    return f"{line}, offloaded {_gib(estimate.on_host)}" if estimate.on_host else line


def _way_out(config: TrainConfig) -> str:
    ways = []
    engine = config.engine
    if config.model.dtype == "float32":
        ways.append("model.dtype=bfloat16")
    if not isinstance(engine, DeepSpeedEngineConfig):
        ways.append("engine.name=deepspeed")
    else:
        if engine.stage < 3:
            ways.append("engine.stage=3")
        if config.workers.count == 1 or engine.stage == 3:
            ways.append(f"workers.count above {config.workers.count}")
        if not engine.offload_optimizer:
            ways.append("engine.offload_optimizer=true")
    if not config.model.gradient_checkpointing:
        ways.append("model.gradient_checkpointing=true")
    if config.model.lora is None:
        ways.append("model.lora")
    if config.optim.batch_size > config.workers.count * config.optim.accumulation:
        ways.append(f"optim.accumulation above {config.optim.accumulation}")
    return f"Ways out: {', '.join(ways)}" if ways else "It takes a larger GPU"


def _activations(config: TrainConfig, shape: ModelShape, tokens: int) -> int:
    """Numbers that autograd keeps of one forward pass of the language model."""
    parts = config.workers.count * config.optim.accumulation
    positions = max(1, config.optim.batch_size // parts) * tokens
    # Residual stream and both norms' outputs twice over, attention's output; queries, keys, values; the gated MLP's
    # gate, activation, up and product.
    layer = 5 * shape.hidden + shape.attention + 4 * shape.intermediate
    if config.model.gradient_checkpointing:
        return positions * (shape.layers * shape.hidden + min(1, shape.layers) * layer)
    return positions * shape.layers * layer


def _part(total: int, parts: int) -> int:
    return -(-total // parts)


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / GIB:.1f} GiB" if num_bytes >= GIB / 10 else f"{num_bytes / 2**20:.1f} MiB"
