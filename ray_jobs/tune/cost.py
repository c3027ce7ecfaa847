"""What a search would take, before anything is started: trials, hours of GPUs, disk, and what is missing here.

Pure arithmetic on the config, the data files and the names and sizes of the weights; PyTorch is not needed. Training is
counted as 2 operations a parameter and token forward and 4 backward (Kaplan et al. 2020, section 2.1), one forward more
where activations are computed again.
"""

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import try_to_load_from_cache

from ray_jobs.cluster.preflight import local_node, preflight
from safemirage.config.method import needed_sets
from safemirage.config.model import ModelConfig
from safemirage.config.plan import SearchPlan
from safemirage.config.train import TrainConfig
from safemirage.config.world import is_miniature
from safemirage.evaluation.run.preflight import missing_of
from safemirage.evaluation.suites.folder import SUITE_FILE
from safemirage.settings import Settings

_FLOPS = 150e12
"""Operations a second that a GPU is taken to keep up: half of an A100's peak in bfloat16."""
_BANDWIDTH = 1.5e12
"""Bytes a second that a GPU reads: decoding reads every weight once a token."""
_TOKENS = 700
"""Tokens of a sample: 576 of a LLaVA's image, and the text."""
_AROUND_S = 240.0
"""Seconds of a trial in which processes start, weights are loaded and exported."""
_LORA_SHARE = 3.5e-4
"""Parameters of adapters on every linear layer, for each rank and parameter of a Llama of 7 or 13 billion."""
_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_ELEMENT = {"float32": 4, "F32": 4}
_IN_NAME = re.compile(r"(?<![\w.])(\d+(?:\.\d+)?)b(?![a-z])", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class TrialCost:
    """One training and its judging; hours are of GPUs, or of CPUs where no GPU is asked for."""

    steps: int
    parameters: float
    train_hours: float
    judge_hours: float
    around_hours: float
    export_bytes: float

    @property
    def hours(self) -> float:
        return self.train_hours + self.judge_hours + self.around_hours


def describe_plan(plan: SearchPlan, settings: Settings) -> str:
    """The plan in a few lines."""
    config, base = plan.config, plan.base
    seeds = max(1, len(config.seeds))
    count = (
        "as many trials as the budget allows" if plan.trials is None else f"{plan.trials} trials"
    )
    each = f"{base.workers.count} {'GPU' if base.workers.gpu else 'CPU worker'}{'s' * (base.workers.count > 1)}"
    lines = [
        f"search {config.name}: {count}, {min(len(plan.queue), plan.trials or 10**9)} of them given and the rest from the "
        f"sampler {config.sampler.name}; each on {each} at {seeds} seed{'s' * (seeds > 1)}",
        f"space: {', '.join(config.space)}",
    ]
    budget = [f"{config.hours:g} hours"] if config.hours else []
    budget += [f"{config.gpu_hours:g} GPU-hours"] if config.gpu_hours else []
    cost = trial_cost(plan)
    if cost is None:
        lines.append(
            f"hours, disk: unknown, because the size of {base.model.path!r} and the number of steps are not known yet"
        )
    else:
        lines += _hours(plan, cost, seeds)
        free = shutil.disk_usage(_there(settings.storage.root)).free
        exports = cost.export_bytes * seeds
        total = "" if plan.trials is None else f", {_size(exports * plan.trials)} for all"
        lines.append(
            f"disk: {_size(exports)} a trial{total}; {_size(free)} free below {settings.storage.root}"
        )
    return "\n".join([*lines, *([f"budget: {' and '.join(budget)}"] if budget else [])])


def missing_of_plan(plan: SearchPlan, settings: Settings) -> list[str]:
    """A line for each thing that is missing on this machine: inputs, weights, packages, workers, judges' models."""
    located = settings.located
    problems = preflight(located(plan.base), nodes=[local_node()])
    return problems + missing_of(located(plan.config))


def trial_cost(plan: SearchPlan) -> TrialCost | None:
    """What one trial takes; None where the model's size or the number of steps is not known yet."""
    base = plan.base
    parameters, steps = _parameters(base.model), _steps(base)
    if parameters is None or steps is None:
        return None
    passes = 4 if base.model.gradient_checkpointing else 3
    samples = base.optim.batch_size * (1 + len(needed_sets(base.method)))
    train = steps * samples * _TOKENS * 2 * parameters * passes / _FLOPS
    selection = plan.config.selection
    answers = _samples(plan.config.selection.suite) or 1000
    decoding = selection.decoding.max_new_tokens * 2 * parameters / _BANDWIDTH
    judge = answers * (2 * parameters * _TOKENS / _FLOPS + decoding / selection.batch_size)
    share = _LORA_SHARE * base.model.lora.rank if base.model.lora else 1.0
    return TrialCost(
        steps=steps,
        parameters=parameters,
        train_hours=train / 3600,
        judge_hours=judge / 3600,
        around_hours=_AROUND_S * base.workers.count / 3600,
        export_bytes=parameters * share * _BYTES[base.model.dtype],
    )


def _hours(plan: SearchPlan, cost: TrialCost, seeds: int) -> list[str]:
    one = cost.hours * seeds
    said = (
        f"a trial: {cost.steps} steps of {cost.parameters / 1e9:.2g} billion parameters, about {one:.2g} GPU-hours "
        f"(training {cost.train_hours * seeds:.2g}, answers {cost.judge_hours * seeds:.2g}, starts and exports "
        f"{cost.around_hours * seeds:.2g})"
    )
    trials = plan.trials
    if trials is None and plan.config.gpu_hours is not None:
        trials = int(plan.config.gpu_hours / one)
    if trials is None:
        return [said]
    workers = plan.base.workers.count
    total = one * trials
    return [
        said,
        f"together: about {total:.3g} GPU-hours for {trials} trials, {total / workers:.3g} hours one at a time, at "
        f"{_FLOPS / 1e12:g} TFLOP/s a GPU; judges behind a URL not counted",
    ]


def _parameters(model: ModelConfig) -> float | None:
    """From the weights' files where they are here, else from a `7b` in the name."""
    if is_miniature(model.path):
        return None
    config = Path(model.path).expanduser() / "config.json"
    if not config.is_file():
        cached = try_to_load_from_cache(model.path, "config.json", revision=model.revision)
        config = Path(cached) if isinstance(cached, str) else config
    if config.is_file():
        tree = json.loads(config.read_text(encoding="utf-8"))
        size = sum(file.stat().st_size for file in config.parent.glob("*.safetensors"))
        if size:
            return size / _ELEMENT.get(tree.get("dtype") or tree.get("torch_dtype") or "", 2)
    named = _IN_NAME.search(model.path)
    return float(named[1]) * 1e9 if named else None


def _steps(config: TrainConfig) -> int | None:
    if config.optim.steps is not None:
        return config.optim.steps
    assert config.optim.epochs is not None, "the config checks that one of both is given"
    retain = Path(config.data.retain).expanduser()
    records = config.data.retain_limit
    if retain.is_file():
        there = len(json.loads(retain.read_text(encoding="utf-8")))
        records = min(there, records or there)
    return None if records is None else int(records * config.optim.epochs / config.optim.batch_size)


def _samples(suite: str) -> int | None:
    file = Path(suite).expanduser() / SUITE_FILE
    if is_miniature(suite) or not file.is_file():
        return None
    return len(json.loads(file.read_text(encoding="utf-8"))["samples"])


def _there(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    return next(path for path in (folder, *folder.absolute().parents) if path.is_dir())


def _size(num_bytes: float) -> str:
    return f"{num_bytes / 1e9:.3g} GB"
