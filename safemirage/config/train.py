"""One training run: model, data, method, optimizer, engine, workers. Files: configs/train/*.yaml."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field

from safemirage.config.data import DataConfig
from safemirage.config.evaluate import EvaluateConfig
from safemirage.config.generators import FolderModelConfig
from safemirage.config.method import MethodConfig, NPOConfig, SFTConfig, needed_sets
from safemirage.config.model import ModelConfig
from safemirage.config.types import Strict, check_name, not_identity
from safemirage.config.world import is_miniature

SNAPSHOT = "snapshot"
"""What `watch.evaluation.model.path` must say: it stands for the model of the step that is evaluated."""


@dataclass(frozen=True, kw_only=True)
class OptimConfig(Strict):
    """AdamW; biases and norms have no weight decay."""

    learning_rate: Annotated[float, Field(gt=0)]
    """Highest learning rate of the schedule."""
    projector_learning_rate: Annotated[float, Field(gt=0)] | None = None
    """Another learning rate for the projector. None: the same."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """AdamW's weight decay; never on biases and norms."""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's decay rates of the gradient's mean and of its square."""
    schedule: Literal["constant", "cosine", "linear"] = "cosine"
    """How the learning rate changes after the warm-up."""
    warmup_ratio: Annotated[float, Field(ge=0, lt=1)] = 0.03
    """Share of the steps in which the learning rate rises from zero."""
    max_grad_norm: Annotated[float, Field(gt=0)] | None = 1.0
    """Gradients with a larger global norm are scaled down to it. None: never."""
    batch_size: Annotated[int, Field(ge=1)] = 16
    """Samples of each set in one optimizer step, over all workers and accumulation steps."""
    accumulation: Annotated[int, Field(ge=1)] = not_identity(1)
    """Forward passes that one worker splits its share of a step into; as the number of workers, no part of the identity."""
    steps: Annotated[int, Field(ge=1)] | None = None
    """Optimizer steps; give this or `epochs`."""
    epochs: Annotated[float, Field(gt=0)] | None = None
    """Passes over the retain set; give this or `steps`."""

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError(
                f"give one of steps and epochs; now steps is {self.steps!r} and epochs is {self.epochs!r}"
            )


@dataclass(frozen=True, kw_only=True)
class TorchEngineConfig(Strict):
    """Plain PyTorch in one process."""

    name: Literal["torch"] = "torch"


@dataclass(frozen=True, kw_only=True)
class DeepSpeedEngineConfig(Strict):
    """ZeRO. How weights and optimizer are shared out changes rounding alone, so it is no part of a run's identity, and a
    run resumes under another stage."""

    name: Literal["deepspeed"] = "deepspeed"
    stage: Literal[0, 1, 2, 3] = not_identity(2)
    """ZeRO stage: what is divided among workers. 0 nothing, 1 the optimizer's state, 2 gradients too, 3 weights too."""
    offload_optimizer: bool = not_identity(False)
    """Masters, moments and the optimizer's step on the host; needs stage 1 or above."""
    offload_parameters: bool = not_identity(False)
    """Weights on the host between the passes of their layers; needs stage 3."""
    optimizer: Literal["auto", "torch", "compiled"] = not_identity("auto")
    """Which implementation of AdamW is used. `compiled`: DeepSpeed's FusedAdam, its CPUAdam where the optimizer is
    offloaded; both are built at the first start. `auto`: compiled for GPU workers, PyTorch's for others."""

    def __post_init__(self) -> None:
        for key, wanted, least in (
            ("offload_optimizer", self.offload_optimizer, 1),
            ("offload_parameters", self.offload_parameters, 3),
        ):
            if wanted and self.stage < least:
                raise ValueError(
                    f"{key} needs stage {least} or above, and stage is {self.stage!r}; raise it or leave {key} out"
                )


EngineConfig = Annotated[TorchEngineConfig | DeepSpeedEngineConfig, Field(discriminator="name")]


@dataclass(frozen=True, kw_only=True)
class WorkersConfig(Strict):
    """The Ray Train worker group."""

    count: Annotated[int, Field(ge=1)] = 1
    """Number of workers."""
    gpu: bool = False
    """One GPU a worker; nccl instead of gloo."""
    cpus: Annotated[float, Field(gt=0)] = 1.0
    """Logical CPUs that Ray reserves for each worker."""
    max_failures: Annotated[int, Field(ge=0)] = 3
    """Restarts of the worker group from its last checkpoint before the run fails."""


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig(Strict):
    """When a run writes what it resumes from; a finished run leaves none."""

    every_steps: Annotated[int, Field(ge=1)] | None = 500
    """Optimizer steps between two checkpoints; null: `every` alone decides."""
    every: Annotated[str, Field(pattern=r"^\d+(\.\d+)?[smh]$")] | None = None
    """Time between two checkpoints: a number and s, m or h, such as 15m. With `every_steps`, whichever comes first."""
    keep: Annotated[int, Field(ge=1)] = 2
    """Checkpoints that are kept while the run goes on."""

    @property
    def every_s(self) -> float | None:
        if self.every is None:
            return None
        return float(self.every[:-1]) * {"s": 1, "m": 60, "h": 3600}[self.every[-1]]


@dataclass(frozen=True, kw_only=True)
class CollapseConfig(Strict):
    """A look at what the model says while it trains: greedy answers to some retain questions, read by the collapse
    detector (nothing, repetition, symbols, the wrong script)."""

    action: Literal["stop", "report", "off"] = "stop"
    """`stop` ends the run with the step and an answer; `report` only logs `collapse/degenerate_share`."""
    every_steps: Annotated[int, Field(ge=1)] = 100
    """Optimizer steps between two looks; the last step has one too. A run of fewer steps has none."""
    samples: Annotated[int, Field(ge=1)] = 8
    """Retain samples, drawn by the run's seed."""
    new_tokens: Annotated[int, Field(ge=8)] = 48
    """Longest answer."""
    max_rise: Annotated[float, Field(ge=0, le=1)] = 0.5
    """How far the share of degenerate answers may rise above what it was before the first step."""


@dataclass(frozen=True, kw_only=True)
class WatchConfig(Strict):
    """Safety evaluation beside the training: snapshots of the model are evaluated while the run trains on."""

    every_steps: Annotated[int, Field(ge=1)]
    """Optimizer steps between two snapshots; the model as it is at the start and the export are evaluated too."""
    evaluation: EvaluateConfig
    """Its `model.path` must be `snapshot`, which stands for each of them in turn."""
    cpus: Annotated[float, Field(gt=0)] = 1.0
    """CPUs that Ray reserves for the engine that answers."""
    gpus: Annotated[float, Field(ge=0)] | None = None
    """GPUs of that engine; None: one where it computes on a GPU. Where the training takes every one of the cluster,
    snapshots wait until it has ended."""
    keep: bool = False
    """Keep the snapshots; else each is deleted when it has been evaluated."""

    def __post_init__(self) -> None:
        model = self.evaluation.model
        if not isinstance(model, FolderModelConfig) or model.path != SNAPSHOT:
            raise ValueError(
                f"evaluation.model: must be an engine with path: {SNAPSHOT}, which stands for the model as it is then"
            )


@dataclass(frozen=True, kw_only=True)
class TrackingConfig(Strict):
    """What MLflow is told."""

    experiment: str = "safemirage"
    """MLflow's experiment."""
    every_steps: Annotated[int, Field(ge=1)] = 1
    """Optimizer steps between two points of a curve."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Strict):
    name: str = not_identity("run")
    """Readable start of the run's name; the identity follows it."""
    model: ModelConfig
    data: DataConfig
    method: MethodConfig = field(default_factory=SFTConfig)
    optim: OptimConfig
    engine: EngineConfig = field(default_factory=DeepSpeedEngineConfig)
    workers: WorkersConfig = field(default_factory=WorkersConfig, metadata={"identity": False})
    checkpoint: CheckpointConfig = field(
        default_factory=CheckpointConfig, metadata={"identity": False}
    )
    tracking: TrackingConfig = field(default_factory=TrackingConfig, metadata={"identity": False})
    collapse: CollapseConfig = field(default_factory=CollapseConfig, metadata={"identity": False})
    watch: WatchConfig | None = field(default=None, metadata={"identity": False})
    seed: int = 0
    """Decides every random draw of the run."""

    def __post_init__(self) -> None:
        check_name(self.name)
        self._check_sets()
        if self.engine.name == "torch" and self.workers.count != 1:
            raise ValueError(
                f"workers.count: {self.workers.count!r} with engine torch, which runs in one process; "
                "set workers.count=1 or engine.name=deepspeed"
            )
        if self.engine.name == "torch" and self.model.dtype != "float32":
            raise ValueError(
                f"model.dtype: {self.model.dtype!r} with engine torch, which keeps no float32 masters; "
                "set model.dtype=float32 or engine.name=deepspeed"
            )

    def _check_sets(self) -> None:
        needed, data = needed_sets(self.method), self.data
        if "forget" in needed and data.forget is None:
            raise ValueError(
                f"data.forget: method {self.method.name!r} unlearns a forget set; name its file"
            )
        if "preferred" in needed and data.preferred is None and data.preferred_answers is None:
            raise ValueError(
                f"data.preferred: method {self.method.name!r} needs what to say instead; name a file, or give "
                "data.preferred_answers: refusals, idk, or a list of texts"
            )
        if "decouple" in needed and data.decouple is None:
            raise ValueError(
                "data.decouple: method.decouple_weight is above 0; name the file of the decoupled questions"
            )

    @property
    def group_size(self) -> int:
        """Consecutive samples of the global order that share a quantity, and must stay in one forward pass."""
        if isinstance(self.method, NPOConfig) and self.method.reduction == "mean":
            return self.method.group_size
        return 1

    @property
    def needs_miniature(self) -> bool:
        """Whether the model or a file is a part of the miniature world."""
        return any(map(is_miniature, [self.model.path, *self.data.paths().values()]))
