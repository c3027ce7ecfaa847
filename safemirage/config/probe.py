"""Probes of an export: relearning, adapter removal, quantisation. Files: configs/probe/*.yaml; see docs/guides/probes.md."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field

from safemirage.config.evaluate import EvaluateConfig
from safemirage.config.generators import TransformersConfig, VLLMConfig
from safemirage.config.model import LoraConfig
from safemirage.config.train import EngineConfig, TorchEngineConfig
from safemirage.config.types import Count, Strict, data_path
from safemirage.config.weights import QuantisationConfig, RoundToNearestConfig, WeightsConfig

Steps = Annotated[int, Field(ge=0)]


@dataclass(frozen=True, kw_only=True)
class RelearnDataConfig(Strict):
    """LLaVA files of what is relearned; none of it may be asked about."""

    forget: str = data_path()
    """The forget set, with the answers that were unlearned."""
    retain: str | None = data_path(None)
    """The control: the same fine-tuning on as many records of this set. None: no control."""
    image_folder: str | None = data_path(None)
    """Root of the `image` paths of both. Left out, records must be text only."""


@dataclass(frozen=True, kw_only=True)
class FineTuneConfig(Strict):
    """Supervised fine-tuning with AdamW at a constant rate, so that n steps of a longer run are a run of n steps."""

    learning_rate: Annotated[float, Field(gt=0)]
    """Constant learning rate."""
    batch_size: Count = 8
    """Records of one optimizer step."""
    accumulation: Count = 1
    """Passes that one optimizer step is divided into: less memory, the same result."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Number format that the model computes in."""
    lora: LoraConfig | None = None
    """Train an adapter, whose exports are small. None: all but the vision tower, or what `trainable` says."""
    trainable: tuple[str, ...] = ()
    """Which parameters are trained, as in `model.trainable` of a training run."""
    max_length: Annotated[int, Field(ge=8)] = 2048
    """Tokens after which a record is cut; image tokens are never cut."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass: less memory, more time."""
    engine: EngineConfig = field(default_factory=TorchEngineConfig)
    gpu: bool = False
    """Train on the GPU; the evaluation's own device is `evaluate.model.device`."""


@dataclass(frozen=True, kw_only=True)
class RelearnConfig(Strict):
    """How many records, and how many steps on them, bring the unlearned behaviour back?"""

    evaluate: EvaluateConfig
    """How each point is measured; its model is the export that is probed."""
    data: RelearnDataConfig
    train: FineTuneConfig
    samples: Annotated[tuple[Count, ...], Field(min_length=1)] = (8, 32, 128)
    """How many records of a set are drawn, by the seed; each number is a curve of its own."""
    steps: Annotated[tuple[Steps, ...], Field(min_length=1)] = (0, 5, 10, 25, 50)
    """Optimizer steps after which is measured; 0, the export as it is, always belongs to them."""
    seed: int = 0
    """Seed of the draw and of the training."""

    def __post_init__(self) -> None:
        _check_probed(self.evaluate, TransformersConfig, VLLMConfig)
        for name, values in (("samples", self.samples), ("steps", self.steps)):
            if len(set(values)) < len(values):
                raise ValueError(f"{name}: {list(values)} holds a number twice")
        if not any(self.steps):
            raise ValueError("steps: [0] trains nothing; name at least one number above 0")


@dataclass(frozen=True, kw_only=True)
class AdapterProbeConfig(Strict):
    """How much of the unlearning lies in an adapter that anyone can take off?"""

    evaluate: EvaluateConfig
    """How each strength is measured; its model is the export that is probed."""
    scales: tuple[Annotated[float, Field(gt=0)], ...] = (0.5,)
    """Strengths to measure beside 1 (the adapter as trained) and 0 (off, the base)."""

    def __post_init__(self) -> None:
        _check_probed(self.evaluate, TransformersConfig)
        if 1 in self.scales or len(set(self.scales)) < len(self.scales):
            raise ValueError(
                f"scales: {list(self.scales)} must differ, and 1 and 0 are measured anyway"
            )


@dataclass(frozen=True, kw_only=True)
class QuantiseConfig(Strict):
    """Does the unlearned behaviour come back when the weights are rounded?"""

    evaluate: EvaluateConfig
    """How each variant is measured; its model is the export that is probed."""
    variants: Annotated[tuple[QuantisationConfig, ...], Field(min_length=1)] = (
        RoundToNearestConfig(bits=8),
        RoundToNearestConfig(bits=4),
    )

    def __post_init__(self) -> None:
        _check_probed(self.evaluate, TransformersConfig)
        titles = [variant.title for variant in self.variants]
        if len(set(titles)) < len(titles):
            raise ValueError(f"variants: {titles} holds one twice")


def _check_probed(
    evaluate: EvaluateConfig, *allowed: type[TransformersConfig] | type[VLLMConfig]
) -> None:
    """Raises ValueError for a model whose weights the probe cannot change, or that is changed already."""
    model = evaluate.model
    if not isinstance(model, allowed):
        names = " or ".join(f"{kind.name!r}" for kind in allowed)
        raise ValueError(
            f"evaluate.model.name: {model.name!r} answers with weights that this probe cannot change; allowed: {names}"
        )
    if isinstance(model, TransformersConfig) and model.weights != WeightsConfig():
        raise ValueError(
            "evaluate.model.weights: leave it out; a probe starts from the export as it is, and changes it by its own "
            "options"
        )
