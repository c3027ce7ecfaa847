"""DeepSpeed as an Engine: ZeRO 0 to 3 over torch.distributed, its configuration, and the operators that it compiles.

python -m safemirage.training.zero      compiles the operators that DeepSpeed uses on a CPU
"""

import fcntl
import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from safemirage.config.loading.load import ConfigError
from safemirage.config.train import DeepSpeedEngineConfig, TrainConfig
from safemirage.methods.forward import inference
from safemirage.methods.method import LossOutput
from safemirage.training.saving.pieces import Piece, copy_pieces, fill_pieces
from safemirage.training.schedule import ADAM_EPS, set_rates

_SHARED_MEMORY = "ShareMemCommBuilder"
_FUSED_ADAM = "FusedAdamBuilder"
CPU_ADAM = "CPUAdamBuilder"

T = TypeVar("T")


class _Root(nn.Module):
    """What DeepSpeed wraps: its forward is one whole computation, so that ZeRO-3 sees one trace however many partial
    forwards a method makes."""

    def __init__(self, inner: nn.Module, frozen: Sequence[nn.Module]) -> None:
        super().__init__()
        self.inner = inner
        # Inside what DeepSpeed wraps, so that ZeRO-3 gathers their weights too when they run.
        self.frozen = nn.ModuleList(frozen)

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
        frozen: Sequence[nn.Module] = (),
    ) -> None:
        assert isinstance(config.engine, DeepSpeedEngineConfig)
        # In this order: each step needs what the one before has set up.
        _prepare_process(device)
        _require_float16(config, device)
        if uses_compiled_adam(config):
            build_operator(CPU_ADAM if config.engine.offload_optimizer else _FUSED_ADAM)
        import deepspeed  # on use: it probes devices when imported, and the driver has none

        self.rank, self.world_size = dist.get_rank(), dist.get_world_size()
        self.device = device
        self._stage = config.engine.stage
        self._accumulation = config.optim.accumulation
        self._engine, *_ = deepspeed.initialize(
            # It is given no scheduler: `step` sets the learning rates itself.
            model=_Root(module, frozen if config.engine.stage == 3 else ()),
            model_parameters=list(groups),
            config=deepspeed_config(config, world_size=self.world_size),
            dist_init_required=False if _deepspeed_is_initialized() else None,
        )
        self._rates = [group["lr"] for group in groups]
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
        set_rates(self._engine.optimizer.param_groups, self._rates, rate_factor)
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

    def copy_state(self) -> dict[str, Any]:
        pieces = self._pieces()
        if self._stage == 0:
            # Every worker holds everything, so they share the writing.
            pieces = pieces[self.rank :: self.world_size]
        state = copy_pieces(pieces, self._engine.basic_optimizer.state)
        return {"pieces": state, "loss_scale": _numbers_of(self._loss_scaler())}

    def load_state(self, saved: Sequence[dict[str, Any]]) -> None:
        pieces, optimizer = self._pieces(), self._engine.basic_optimizer
        fill_pieces(
            pieces,
            optimizer.state,
            [part["pieces"] for part in saved],
            step_is_tensor=isinstance(optimizer, torch.optim.AdamW),
        )
        if (scaler := self._loss_scaler()) is not None:
            vars(scaler).update(saved[0]["loss_scale"])
        self._update_weights(pieces)

    def _loss_scaler(self) -> Any:
        """What counts the overflows of float16; the optimizer itself at stage 0."""
        if not self._engine.fp16_enabled():
            return None
        return getattr(self._engine.optimizer, "loss_scaler", self._engine.optimizer)

    def _trained(self) -> dict[str, nn.Parameter]:
        named = self._engine.module.named_parameters()
        return {name.removeprefix("inner."): p for name, p in named if p.requires_grad}

    def _pieces(self) -> list[Piece]:
        """This worker's pieces of the float32 weights, wherever the stage keeps them.

        DeepSpeed's public functions for it (`safe_get_local_fp32_param` and its like) know stage 3 alone, or gather each
        parameter on every worker. So this reads its optimizers' own maps, as DeepSpeed 0.19.8 has them.
        """
        optimizer = self._engine.optimizer
        if self._stage == 3:
            return [piece for piece in map(self._partition, self._trained().items()) if piece]
        if self._stage == 0:
            return _whole_pieces(optimizer, self._trained())
        # A parameter that lies in other workers' shares alone has no mapping.
        mapped = [(name, p._hp_mapping) for name, p in self._trained().items() if p._hp_mapping]  # type: ignore[attr-defined]
        return [
            Piece(
                name,
                at.lp_fragment_address.start,
                optimizer.single_partition_of_fp32_groups[at.param_group_index],
                at.hp_fragment_address.start,
                at.lp_fragment_address.numel,
            )
            for name, at in mapped
        ]

    def _partition(self, named: tuple[str, Any]) -> Piece | None:
        """Stage 3 cuts each parameter into equal parts, the last ones filled up."""
        optimizer, (name, parameter) = self._engine.optimizer, named
        group, offset, length = optimizer.grad_position[optimizer.get_param_id(parameter)]
        start = self.rank * length
        real = min(length, parameter.ds_numel - start)
        flat = optimizer.fp32_partitioned_groups_flat[group]
        return Piece(name, start, flat, offset, real) if real > 0 else None

    @torch.no_grad()
    def _update_weights(self, pieces: Sequence[Piece]) -> None:
        """Makes the weights that the model computes with out of their float32 masters, as a step does."""
        optimizer, trained = self._engine.optimizer, self._trained()
        if self._stage in (1, 2):
            optimizer.update_lp_params()
        elif self._stage == 3:
            # Small parameters stay gathered between the steps: parted before, gathered anew after.
            optimizer.checkpoint_event_prologue()
            for piece in pieces:
                shard = trained[piece.name].ds_tensor  # type: ignore[attr-defined]
                shard.data.narrow(0, 0, piece.numel).copy_(piece.of(piece.held))
            optimizer.checkpoint_event_epilogue()
        else:
            for piece in pieces:
                trained[piece.name].view(-1).copy_(piece.of(piece.held))

    def state_dict(self) -> dict[str, Tensor] | None:
        if self._stage == 3:
            state = self._engine._consolidated_16bit_state_dict()  # any dtype, despite its name
        else:
            state = self._engine.module.state_dict() if self.rank == 0 else None
        if state is None:
            return None
        # `inner` is the attribute of `_Root`, which an export must not know.
        return {
            name.removeprefix("inner."): value.detach().cpu()
            for name, value in state.items()
            if name.startswith("inner.")
        }


def parting(config: TrainConfig, device: torch.device) -> Callable[..., None] | None:
    """Under ZeRO-3 what parts a parameter among the workers as soon as it is read, so that no worker ever holds the
    model whole; None under other engines. Collective, as each of its calls."""
    if not isinstance(config.engine, DeepSpeedEngineConfig) or config.engine.stage != 3:
        return None
    _prepare_process(device)
    import deepspeed

    if not _deepspeed_is_initialized():
        deepspeed.init_distributed(dist_backend=dist.get_backend())
    settings = deepspeed_config(config, world_size=dist.get_world_size())
    first: list[Any] = []

    def take(parameter: nn.Parameter, read: Callable[[], Tensor]) -> None:
        # DeepSpeed gives all workers the first one's numbers, so that alone reads the files.
        value = torch.empty_like(parameter, device="cpu") if dist.get_rank() else read()
        real = nn.Parameter(value, requires_grad=parameter.requires_grad)
        # In place, because tied weights are one parameter in two modules.
        torch.utils.swap_tensors(parameter, real)
        if first:
            first[0].convert_to_zero_parameters(param_list=[parameter])
            return
        holder = nn.Module()
        holder.register_parameter("only", parameter)
        deepspeed.zero.Init(module=holder, config_dict_or_path=settings, dtype=parameter.dtype)
        first.append(parameter)

    return take


def _whole_pieces(optimizer: Any, trained: Mapping[str, nn.Parameter]) -> list[Piece]:
    """Stage 0 keeps whole parameters: the model's own in float32, else masters, flat or one by one."""
    if not hasattr(optimizer, "fp16_groups"):
        return [Piece(name, 0, p, 0, p.numel()) for name, p in trained.items()]
    names = {id(p): name for name, p in trained.items()}
    pieces = []
    for number, group in enumerate(optimizer.fp16_groups):
        offset = 0
        for place, parameter in enumerate(group):
            if hasattr(optimizer, "fp32_groups_flat"):
                held, at = optimizer.fp32_groups_flat[number], offset
            else:
                held, at = optimizer.fp32_groups[number][place], 0
            pieces.append(Piece(names[id(parameter)], 0, held, at, parameter.numel()))
            offset += parameter.numel()
    return pieces


def _numbers_of(scaler: Any) -> dict[str, Any]:
    kept = ("cur_scale", "cur_iter", "last_overflow_iter", "cur_hysteresis")
    return {name: getattr(scaler, name) for name in kept if hasattr(scaler, name)}


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
