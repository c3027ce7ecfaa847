"""`safemirage judge-check` and `safemirage audit-judge`: the instruments, before what they measure."""

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from safemirage.text.numbers import bounds, percent

if TYPE_CHECKING:
    from safemirage.evaluation.judges import Judge
    from safemirage.evaluation.judges.audit import JudgeAudit, LabelledAnswer
    from safemirage.evaluation.judges.checks import Result
    from safemirage.evaluation.metrics.calibration import Calibration
    from safemirage.evaluation.metrics.intervals import Rate

JudgeOption = Annotated[
    list[str] | None, typer.Option("--judge", help="A built-in judge's name; repeatable.")
]
ConfigOption = Annotated[
    Path | None, typer.Option("--config", help="Take the judges of this evaluate file.")
]
OverrideOption = Annotated[
    list[str] | None, typer.Option("--set", help="a.b=c on the evaluate file; repeatable.")
]


def judge_check(
    judge: JudgeOption = None, config: ConfigOption = None, overrides: OverrideOption = None
) -> None:
    """Try judges on answers that are made to mislead them. Exits with 1 when one is fooled."""
    from safemirage.evaluation.judges.checks import check_judge
    from safemirage.evaluation.reports.grid import Grid
    from safemirage.evaluation.reports.terminal import print_grid, screen

    async def run() -> dict[str, "list[Result]"]:
        async with AsyncExitStack() as stack:
            judges = await _open(judge, config, overrides, stack)
            return {item.name: await check_judge(item) for item in judges}

    results = asyncio.run(run())
    console = screen()
    for name, found in results.items():
        lines = [
            [
                "" if item.passed else "fooled",
                item.probe.name,
                item.probe.tests,
                ", ".join(item.probe.right),
                f"{item.verdict.label}: {item.verdict.reason}",
            ]
            for item in found
        ]
        header = ["", "probe", "what misleads", "right", "verdict"]
        passed = f"{name}: {sum(item.passed for item in found)} of {len(found)} probes passed"
        print_grid(console, Grid(title=name, header=header, lines=lines, notes=[passed], keys=2))
    if not all(item.passed for found in results.values() for item in found):
        raise typer.Exit(1)


def audit_judge(
    file: Annotated[Path, typer.Argument(help="Labelled answers, or VLGuard's JSON.")],
    judge: JudgeOption = None,
    config: ConfigOption = None,
    overrides: OverrideOption = None,
    correct: Annotated[
        list[str] | None,
        typer.Option("--correct", help="A stored evaluation whose ASR to correct; repeatable."),
    ] = None,
) -> None:
    """Measure judges against labels: refusals that they miss, other answers that they take for refusals."""
    from safemirage.evaluation.judges.audit import audit_judges, read_labelled
    from safemirage.evaluation.reports.terminal import screen

    answers = read_labelled(file)
    console = screen()

    async def run() -> None:
        async with AsyncExitStack() as stack:
            judges = await _open(judge, config, overrides, stack)
            audit = await audit_judges(judges, answers)
            _print_audit(console, file, audit, answers)
            for reference in correct or ():
                _print_corrected(console, reference, judges, audit, answers)

    asyncio.run(run())


def _print_corrected(
    console: Console,
    reference: str,
    judges: "Sequence[Judge]",
    audit: "JudgeAudit",
    answers: "Sequence[LabelledAnswer]",
) -> None:
    from safemirage.evaluation.judges.audit import compliance_errors
    from safemirage.evaluation.metrics.calibration import corrected_asr
    from safemirage.evaluation.reports.tables import corrected_grid
    from safemirage.evaluation.reports.terminal import print_grid
    from safemirage.evaluation.run.archive import find_evaluation, load_evaluation
    from safemirage.evaluation.run.process import judge_record
    from safemirage.settings import read_settings
    from safemirage.store import open_store

    settings = read_settings()
    with open_store(settings.store_url) as store:
        evaluation = load_evaluation(store, find_evaluation(store, reference, settings))
    rows = [
        row
        for judge in judges
        for row in corrected_asr(
            evaluation,
            judge_record(judge),
            compliance_errors(judge.name, answers, audit.said[judge.name]),
        )
    ]
    print_grid(console, corrected_grid(f"{evaluation.name}: attack success", rows))


async def _open(
    names: Sequence[str] | None,
    config: Path | None,
    overrides: Sequence[str] | None,
    stack: AsyncExitStack,
) -> "list[Judge]":
    """The judges that were named; without any, both keyword judges."""
    from safemirage.config.evaluate import EvaluateConfig
    from safemirage.evaluation.generators.asking import ModelCalls
    from safemirage.evaluation.judges.build import built_in_judge
    from safemirage.evaluation.run.preflight import require
    from safemirage.evaluation.run.process import open_judges
    from safemirage.settings import load_located, read_settings

    if config is None and overrides:
        raise typer.BadParameter("needs --config", param_hint="--set")
    try:
        built_in = [built_in_judge(name) for name in names or ()]
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--judge") from error
    if config is not None:
        settings = read_settings()
        loaded = load_located(EvaluateConfig, config, overrides or (), settings)
        require(loaded.judges, key="judges")
        return built_in + await open_judges(loaded.judges, stack, ModelCalls())
    return built_in or [built_in_judge("keywords"), built_in_judge("refusal_rules")]


def _print_audit(
    console: Console, file: Path, audit: "JudgeAudit", answers: "Sequence[LabelledAnswer]"
) -> None:
    from safemirage.evaluation.reports.grid import Grid
    from safemirage.evaluation.reports.terminal import print_grid

    lines = []
    for (name, group), found in audit.calibrations.items():
        missed, flagged = _errors(found)
        both = found.sensitivity.n and found.specificity.n  # of one class alone kappa says nothing
        kappa = f"{found.kappa:.3f}" if both and found.kappa is not None else ""
        lines.append([name, group, missed, flagged, str(found.unscored), kappa])
    header = ["judge", "answers", "refusals missed", "others flagged", "unscored", "kappa"]
    title = f"{file.name}: {len(answers)} answers"
    print_grid(console, Grid(title=title, header=header, lines=lines, keys=2))
    for (first, second), kappa_of_two in audit.agreements.items():
        said = "not defined" if kappa_of_two is None else f"{kappa_of_two:.3f}"
        console.print(f"agreement of {first} and {second} (kappa of their labels): {said}")


def _errors(found: "Calibration") -> tuple[str, str]:
    from safemirage.evaluation.metrics.intervals import wilson_rate

    positive, others = found.hits + found.misses, found.false_alarms + found.correct_rejections
    return (
        _share(found.misses, wilson_rate(found.misses, positive)),
        _share(found.false_alarms, wilson_rate(found.false_alarms, others)),
    )


def _share(count: int, rate: "Rate") -> str:
    """A share with its counts and interval: `12/34 = 35.3 % (20.8 to 52.9)`."""
    if rate.value is None or rate.low is None or rate.high is None:
        return ""
    return f"{count}/{rate.n} = {percent(rate.value)} ({bounds(rate.low, rate.high)})"
