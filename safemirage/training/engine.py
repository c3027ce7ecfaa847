"""The Engine seam: how a loss becomes a step. TorchEngine in one process, DeepSpeedEngine for ZeRO 0 to 3.

    python -m safemirage.training.engine      compiles the operators that DeepSpeed uses on a CPU

Losses are shares of the global batch, so an engine *sums* gradients over workers and micro-batches.
"""

import fcntl
import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from safemirage.config.loading.load import ConfigError
from safemirage.config.train import DeepSpeedEngineConfig, OptimConfig, TrainConfig
from safemirage.methods.forward import inference
from safemirage.methods.method import LossOutput
from safemirage.training.schedule import parameter_groups

_SHARED_MEMORY = "ShareMemCommBuilder"
_FUSED_ADAM = "FusedAdamBuilder"
CPU_ADAM = "CPUAdamBuilder"
_SHARDS_TAG = "shards"
ADAM_EPS = 1e-8
_MOMENT_BYTES = 8
"""A parameter's two moments in float32."""
_MASTER_BYTES = 4

T = TypeVar("T")


class Engine(Protocol):
    """One worker's part of the training machinery. Calls marked collective are made by all workers alike."""

    rank: int
    world_size: int
    device: torch.device

    def loss(self, compute: Callable[[nn.Module], LossOutput]) -> LossOutput:
        """Runs `compute` on the module. The module's weights may be read only in here."""

    def infer(self, compute: Callable[[nn.Module], T]) -> T:
        """Runs `compute` on the module without gradient and with dropout off. Collective: with parameters shared out
        among the workers, all make the same calls of the module."""

    def backward(self, loss: Tensor) -> None:
        """Adds the gradient of one micro-batch's share. Collective; `accumulation` times a step."""

    def step(self, *, rate_factor: float) -> float:
        """Updates the weights with learning rates times `rate_factor`; returns the gradient's norm before clipping,
        nan where the step was skipped for a float16 overflow. Collective."""

    def save(self, folder: Path) -> None:
        """Writes what `load` needs: this worker's shards of weights and optimizer. Collective."""

    def checkpoint_bytes(self) -> int:
        """What `save` writes on all workers together, headers left out."""

    def load(self, folder: Path) -> None:
        """Takes up saved shards, under the same number of workers and the same stage. Collective."""

    def state_dict(self) -> dict[str, Tensor] | None:
        """All weights on the CPU, on rank 0; None elsewhere. Collective."""


class TorchEngine:
    """Plain PyTorch, one process, float32."""

    rank = 0
    world_size = 1

    def __init__(
        self,
        module: nn.Module,
        groups: Sequence[dict[str, Any]],
        optim: OptimConfig,
        device: torch.device,
    ) -> None:
        self.device = device
        self._module = module.to(device)
        self._optimizer = torch.optim.AdamW(list(groups), betas=optim.betas, eps=ADAM_EPS)
        self._rates = [group["lr"] for group in self._optimizer.param_groups]
        self._max_norm = optim.max_grad_norm

    def loss(self, compute: Callable[[nn.Module], LossOutput]) -> LossOutput:
        return compute(self._module)

    def infer(self, compute: Callable[[nn.Module], T]) -> T:
        with inference(self._module):
            return compute(self._module)

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def step(self, *, rate_factor: float) -> float:
        # With a bound of infinity nothing is clipped, and the norm is known all the same.
        norm = nn.utils.clip_grad_norm_(self._trained(), self._max_norm or float("inf"))
        # Each group keeps its own rate; the schedule is one factor on all of them.
        _set_rates(self._optimizer.param_groups, self._rates, rate_factor)
        self._optimizer.step()
        self._optimizer.zero_grad()
        return float(norm)

    def save(self, folder: Path) -> None:
        # Frozen weights are those of the model that the run starts from, and are not written again.
        trained = {name: p for name, p in self._module.named_parameters() if p.requires_grad}
        torch.save(
            {"module": trained, "optimizer": self._optimizer.state_dict()}, folder / "engine.pt"
        )

    def checkpoint_bytes(self) -> int:
        return sum(p.nbytes + _MOMENT_BYTES * p.numel() for p in self._trained())

    def load(self, folder: Path) -> None:
        state = torch.load(folder / "engine.pt", map_location=self.device, weights_only=True)
        # Not strict, since frozen weights are not in the file; the asserts say that nothing else is missing.
        missing, unexpected = self._module.load_state_dict(state["module"], strict=False)
        trained = {name for name, p in self._module.named_parameters() if p.requires_grad}
        assert not unexpected
        assert not trained & set(missing)
        self._optimizer.load_state_dict(state["optimizer"])

    def state_dict(self) -> dict[str, Tensor] | None:
        return {name: value.detach().cpu() for name, value in self._module.state_dict().items()}

    def _trained(self) -> list[nn.Parameter]:
        return [p for group in self._optimizer.param_groups for p in group["params"]]


class _Root(nn.Module):
    """What DeepSpeed wraps: its forward is one whole computation, so that ZeRO-3 sees one trace however many partial
    forwards a method makes."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, compute: Callable[[nn.Module], T]) -> T:
        return compute(self.inner)


class DeepSpeedEngine:
    """ZeRO 0 to 3 over the process group of torch.distributed (one of a single process is made where there is none).

    DeepSpeed averages over workers and accumulation steps; losses are scaled so that shares add up instead.
    """

    def __init__(
        self,
        module: nn.Module,
        groups: Sequence[dict[str, Any]],
        config: TrainConfig,
        device: torch.device,
    ) -> None:
        assert isinstance(config.engine, DeepSpeedEngineConfig)
        # In this order: each step needs what the one before has set up.
        _prepare_process(device)
        _require_float16(config, device)
        if uses_compiled_adam(config):
            build_operator(CPU_ADAM if config.engine.offload_optimizer else _FUSED_ADAM)
        import deepspeed  # on use: it probes devices when imported, and the driver has none

        # Counted before ZeRO-3 cuts the parameters up. A partitioned optimizer saves its masters too.
        trained = [p for group in groups for p in group["params"]]
        # Plain float32 needs no second, master copy of the weights; everything else keeps one in float32.
        whole = config.engine.stage == 0 and config.model.dtype == "float32"
        state = _MOMENT_BYTES if whole else _MOMENT_BYTES + _MASTER_BYTES
        num_bytes = sum(p.nbytes + state * p.numel() for p in trained)

        self.rank, self.world_size = dist.get_rank(), dist.get_world_size()
        self.device = device
        self._stage = config.engine.stage
        self._accumulation = config.optim.accumulation
        self._engine, *_ = deepspeed.initialize(
            # It is given no scheduler: `step` sets the learning rates itself.
            model=_Root(module),
            model_parameters=list(groups),
            config=deepspeed_config(config, world_size=self.world_size),
            dist_init_required=False if _deepspeed_is_initialized() else None,
        )
        self._rates = [group["lr"] for group in groups]
        self._checkpoint_bytes = num_bytes
        self._num_backward = 0

    def loss(self, compute: Callable[[nn.Module], LossOutput]) -> LossOutput:
        def parts(module: nn.Module) -> tuple[Tensor, dict[str, Tensor]]:
            # DeepSpeed finds the tensor to go back from in tuples, not in other classes.
            output = compute(module)
            return output.total, output.parts

        total, named = self._engine(parts)
        return LossOutput(total=total, parts=named)

    def infer(self, compute: Callable[[nn.Module], T]) -> T:
        with inference(self._engine):
            result: T = self._engine(compute)
        return result

    def backward(self, loss: Tensor) -> None:
        # DeepSpeed divides by both, and a share must count whole.
        self._engine.backward(loss * (self.world_size * self._accumulation))
        self._num_backward += 1
        if self._num_backward % self._accumulation:
            self._engine.step()  # no boundary yet: counts the micro-batch

    def step(self, *, rate_factor: float) -> float:
        assert self._num_backward % self._accumulation == 0, (
            "backward comes `accumulation` times a step"
        )
        _set_rates(self._engine.optimizer.param_groups, self._rates, rate_factor)
        # Asked before the step, which clears the gradients.
        norm = self._gradient_norm() if self._stage == 0 else None
        self._engine.step()
        # DeepSpeed leaves out a step whose gradients overflowed, and lowers its loss scale.
        if self._engine.fp16_enabled() and self._engine.optimizer.overflow:
            return float("nan")
        norm = self._engine.get_global_grad_norm() if norm is None else norm
        return float("nan") if norm is None else float(norm)

    def _gradient_norm(self) -> float | None:
        """Stage 0 in float32 keeps plain gradients and no norm of its own."""
        gradients = [p.grad for p in self._engine.module.parameters() if p.grad is not None]
        if not gradients or self._engine.bfloat16_enabled() or self._engine.fp16_enabled():
            return None
        return float(nn.utils.get_total_norm(gradients))

    def save(self, folder: Path) -> None:
        self._engine.save_checkpoint(str(folder), tag=_SHARDS_TAG, exclude_frozen_parameters=True)

    def checkpoint_bytes(self) -> int:
        return self._checkpoint_bytes

    def load(self, folder: Path) -> None:
        # Not strict: frozen weights were left out when it was saved.
        loaded, _ = self._engine.load_checkpoint(
            str(folder), tag=_SHARDS_TAG, load_module_strict=False, load_lr_scheduler_states=False
        )
        if loaded is None:
            raise FileNotFoundError(f"no DeepSpeed shards in {folder}")

    def state_dict(self) -> dict[str, Tensor] | None:
        if self._stage == 3:
            state = self._engine._consolidated_16bit_state_dict()  # any dtype, despite its name
        else:
            state = self._engine.module.state_dict() if self.rank == 0 else None
        if state is None:
            return None
        # `inner` is the attribute of `_Root`, which an export must not know.
        return {name.removeprefix("inner."): value.detach().cpu() for name, value in state.items()}


def deepspeed_config(config: TrainConfig, *, world_size: int) -> dict[str, Any]:
    """The configuration that DeepSpeed is given; the only place that makes one."""
    assert isinstance(config.engine, DeepSpeedEngineConfig)
    engine, optim = config.engine, config.optim
    per_pass = optim.batch_size // (world_size * optim.accumulation)
    zero: dict[str, Any] = {"stage": engine.stage}
    if engine.stage == 3:
        zero["stage3_gather_16bit_weights_on_model_save"] = True
    for name, wanted in (
        ("optimizer", engine.offload_optimizer),
        ("param", engine.offload_parameters),
    ):
        if wanted:
            zero[f"offload_{name}"] = {"device": "cpu", "pin_memory": config.workers.gpu}
    adam = {
        "lr": optim.learning_rate,
        "betas": list(optim.betas),
        "eps": ADAM_EPS,
        # Each group has its own; this default reaches none of them.
        "weight_decay": 0.0,
    }
    return {
        "train_batch_size": per_pass * world_size * optim.accumulation,
        "train_micro_batch_size_per_gpu": per_pass,
        "gradient_accumulation_steps": optim.accumulation,
        "gradient_clipping": optim.max_grad_norm or 0.0,
        "optimizer": {
            "type": "AdamW",
            "params": {**adam, "torch_adam": not uses_compiled_adam(config)},
        },
        "bf16": {"enabled": config.model.dtype == "bfloat16"},
        "fp16": {"enabled": config.model.dtype == "float16"},
        "zero_optimization": zero,
        # So that DeepSpeed prints no lines of its own.
        "steps_per_print": sys.maxsize,
    }


def uses_compiled_adam(config: TrainConfig) -> bool:
    """Whether DeepSpeed's own AdamW takes the steps: FusedAdam, or CPUAdam where the optimizer is offloaded."""
    assert isinstance(config.engine, DeepSpeedEngineConfig)
    wanted = config.engine.optimizer
    return config.workers.gpu if wanted == "auto" else wanted == "compiled"


def build_engine(
    module: nn.Module, config: TrainConfig, *, projector: str, device: torch.device
) -> Engine:
    """The engine that the config names, around a module that holds its initial weights."""
    groups = parameter_groups(module, config.optim, projector=projector)
    if isinstance(config.engine, DeepSpeedEngineConfig):
        return DeepSpeedEngine(module, groups, config, device)
    return TorchEngine(module, groups, config.optim, device)


def _set_rates(groups: Sequence[Mapping[str, Any]], rates: Sequence[float], factor: float) -> None:
    for group, rate in zip(groups, rates, strict=True):
        # Set outright rather than scaled, so that rounding does not add up over the steps.
        group["lr"] = rate * factor  # type: ignore[index]


def _prepare_process(device: torch.device) -> None:
    """What DeepSpeed expects of its process: the accelerator's name, a process group, its operator compiled."""
    if device.type == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
        build_operator()
    os.environ.setdefault("LOCAL_RANK", "0")
    if not dist.is_initialized():
        backend = "gloo" if device.type == "cpu" else "nccl"
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)  # type: ignore[attr-defined]


def _require_float16(config: TrainConfig, device: torch.device) -> None:
    from deepspeed.accelerator import get_accelerator

    if config.model.dtype == "float16" and not get_accelerator().is_fp16_supported():
        raise ConfigError(
            f"model.dtype: 'float16' cannot be trained on this {device.type}; set bfloat16 or float32"
        )


def _deepspeed_is_initialized() -> bool:
    import deepspeed.comm

    return bool(deepspeed.comm.is_initialized())


def build_operator(builder: str = _SHARED_MEMORY) -> None:
    """Compiles one of DeepSpeed's operators, or loads what was compiled; one process at a time.

    PyTorch guards a build by a lock file that an interrupted build leaves behind, and on which every later one waits
    for ever. Builds pass through a lock of the kernel's here, which ends with its process: whoever holds it may take
    away such a file.

    Raises:
        ConfigError: it does not build on this machine.
    """
    builds = Path(os.environ.setdefault("TORCH_EXTENSIONS_DIR", str(_builds_folder())))
    builds.mkdir(parents=True, exist_ok=True)
    if (
        shutil.which("ninja") is None
    ):  # the worker was started without the environment's bin in PATH
        os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    from deepspeed.accelerator import get_accelerator
    from deepspeed.ops.op_builder.builder import CUDAMismatchException, MissingCUDAException

    operator = get_accelerator().create_op_builder(builder)
    with (builds / f"{operator.name}.guard").open("w") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        (builds / operator.name / "lock").unlink(missing_ok=True)
        try:
            operator.load(verbose=False)
        except (RuntimeError, MissingCUDAException, CUDAMismatchException) as error:
            raise ConfigError(
                f"engine.optimizer: DeepSpeed's operator {operator.name} does not build here: {error}. Install a "
                "compiler (and on a GPU the CUDA toolkit of torch's version), or set engine.optimizer=torch"
            ) from error


def _builds_folder() -> Path:
    """Where operators are built: one folder an environment, or a version of PyTorch where there is none, because each
    would build what another one built anew."""
    if sys.prefix != sys.base_prefix:
        return Path(sys.prefix) / "torch_extensions"
    from torch.utils.cpp_extension import get_default_build_root

    return Path(get_default_build_root()) / f"torch-{torch.__version__}"


if __name__ == "__main__":
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    build_operator()
    try:
        build_operator(CPU_ADAM)
    except (
        ConfigError
    ) as error:  # needed by engine.optimizer=compiled alone, which will say the same
        sys.stderr.write(f"{error}\n")
