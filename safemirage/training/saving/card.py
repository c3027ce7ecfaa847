"""The card of a run: what was trained on what, how the losses went, and what does not hold; part of its export.

`README.md` is the model card of the export, `card/losses.png` its curves (with matplotlib: extra `plot`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import yaml

from safemirage.config.loading.identity import is_local
from safemirage.config.loading.load import to_tree
from safemirage.config.train import DeepSpeedEngineConfig, TrainConfig
from safemirage.models.manifest import package_versions
from safemirage.training.job import StepMetrics

CARD_NAME = "README.md"
PLOT_NAME = "card/losses.png"
_LOSSES = ("loss", "forget/", "retain/", "preferred/", "decouple/")


@dataclass(frozen=True, kw_only=True)
class DataSummary:
    """One set as it was trained on."""

    digest: str
    """SHA-256 over tokens, labels and images of its samples, in hex."""
    num_samples: int
    num_truncated: int


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """What the card tells beside the config."""

    run_id: str
    identity: str
    config: TrainConfig
    data: Mapping[str, DataSummary]
    history: Sequence[StepMetrics]
    """Every tracked step, those of earlier attempts too."""
    total_steps: int
    resumed_from: int
    attention: str
    git_commit: str | None


def write_card(summary: RunSummary) -> dict[str, bytes]:
    """The files of the card by their names inside the export."""
    plot = loss_plot(summary.history)
    files = {CARD_NAME: card_text(summary, has_plot=plot is not None).encode()}
    return files if plot is None else {**files, PLOT_NAME: plot}


def card_text(summary: RunSummary, *, has_plot: bool) -> str:
    config = summary.config
    engine = config.engine
    name = (
        f"DeepSpeed ZeRO-{engine.stage}" if isinstance(engine, DeepSpeedEngineConfig) else "torch"
    )
    head: dict[str, object] = {
        "library_name": "transformers",
        "tags": ["safemirage", config.method.name],
    }
    if not is_local(config.model.path) and not Path(config.model.path).exists():
        head["base_model"] = config.model.path
    resumed = (
        f", the last {summary.total_steps - summary.resumed_from} in the last attempt"
        if summary.resumed_from
        else ""
    )
    sections = [
        f"---\n{yaml.safe_dump(head, sort_keys=True)}---",
        f"# {summary.run_id}",
        f"Method `{config.method.name}`, {summary.total_steps} optimizer steps{resumed}, seed {config.seed}, "
        f"{config.workers.count} worker(s), {name}, {config.model.dtype}, attention `{summary.attention}`. "
        f"Identity `{summary.identity}`.",
        "## What does not hold\n\n" + "\n".join(f"- {line}" for line in caveats(summary)),
        "## Data\n\n" + _data_table(summary.data),
        "## Losses\n\n"
        + (
            f"![losses]({PLOT_NAME})\n\n"
            if has_plot
            else "No plot: matplotlib is not installed.\n\n"
        )
        + _loss_table(summary.history),
        "## Config\n\n```yaml\n" + yaml.safe_dump(to_tree(config), sort_keys=False) + "```",
        "## Versions\n\n" + _versions(summary.git_commit),
    ]
    return "\n\n".join(sections) + "\n"


def caveats(summary: RunSummary) -> list[str]:
    """What a reader must know before comparing this run with another."""
    config = summary.config
    lines = []
    if config.model.lora is not None and config.model.lora.dropout > 0:
        lines.append(
            f"Dropout is {config.model.lora.dropout:g} and each worker draws its own, so this loss trace holds for "
            f"{config.workers.count} worker(s) and optim.accumulation={config.optim.accumulation} only."
        )
    if config.model.dtype != "float32":
        lines.append(
            f"In {config.model.dtype} sums depend on their order: another number of workers or accumulation steps "
            "gives other losses in the last digits, and they drift apart."
        )
    for name, data in summary.data.items():
        if data.num_truncated:
            lines.append(
                f"{data.num_truncated} of {data.num_samples} samples of the {name} set lost their end to "
                f"model.max_length={config.model.max_length}."
            )
    return lines or [
        "Nothing beyond rounding: float32 without dropout gives these losses whatever the number of workers."
    ]


def loss_plot(history: Sequence[StepMetrics]) -> bytes | None:
    """The curves of all losses as PNG; None where matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        return None
    names = _loss_names(history)
    figure = Figure(figsize=(5 * len(names), 3.5), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        points = [(step["step"], step[name]) for step in history if name in step]
        axes.plot(*zip(*points, strict=True), linewidth=1)
        axes.set_title(name)
        axes.set_xlabel("optimizer step")
    stream = BytesIO()
    figure.savefig(stream, format="png", dpi=100)
    return stream.getvalue()


def _loss_names(history: Sequence[StepMetrics]) -> list[str]:
    return [name for name in history[-1] if name.startswith(_LOSSES)]


def _data_table(data: Mapping[str, DataSummary]) -> str:
    rows = [
        f"| {name} | {item.num_samples} | {item.num_truncated} | `{item.digest}` |"
        for name, item in data.items()
    ]
    return "\n".join(["| set | samples | truncated | SHA-256 |", "|---|---|---|---|", *rows])


def _loss_table(history: Sequence[StepMetrics]) -> str:
    first, last = history[0], history[-1]
    rows = [
        f"| {name} | {first[name]:.6g} | {last[name]:.6g} |"
        for name in _loss_names(history)
        if name in first
    ]
    steps = f"| | step {first['step']:.0f} | step {last['step']:.0f} |"
    return "\n".join([steps, "|---|---|---|", *rows])


def _versions(commit: str | None) -> str:
    versions = {**package_versions(), "commit": commit or "unknown"}
    return "\n".join(f"- {name} {version}" for name, version in versions.items())
