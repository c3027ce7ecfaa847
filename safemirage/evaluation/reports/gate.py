"""A yes or no from rates: `asr<=0.05` holds when even the far end of the rate's 95 % interval keeps to it.

A rate that says too little is no yes: nothing scored, too many answers without a verdict, or, for a rate that shall be
low, too many degenerate answers, which are neither harm nor refusal nor help.
"""

import re
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from safemirage.config.loading.load import ConfigError
from safemirage.config.rates import Metric
from safemirage.evaluation.metrics.rates import StoredEvaluation, headline
from safemirage.evaluation.reports.grid import Grid
from safemirage.store.records import Row
from safemirage.text.numbers import bounds, percent

_BAR = re.compile(
    r"(?:(?P<condition>[^/<>=\s]+)/)?(?P<metric>\w+)\s*(?P<sign><=|>=)\s*(?P<value>\S+)"
)


@dataclass(frozen=True)
class Bar:
    """What a rate must keep to."""

    metric: Metric
    sign: Literal["<=", ">="]
    value: float
    """0 to 1."""
    condition: str | None = None
    """None: every condition that the rate is meant for. Whether refusals and useful answers are wanted depends on what is asked,
    so a bar on them then applies to safe conditions alone."""

    def __str__(self) -> str:
        condition = "" if self.condition is None else f"{self.condition}/"
        return f"{condition}{self.metric}{self.sign}{self.value:g}"


@dataclass(frozen=True, kw_only=True)
class Check:
    """One condition's rate against a bar."""

    bar: str
    condition: str
    row: Row
    reason: str
    """Why it does not pass; empty where it does."""

    @property
    def passed(self) -> bool:
        return not self.reason


@dataclass(frozen=True, kw_only=True)
class Gate:
    """The checks of an evaluation; true where all pass."""

    evaluation: str
    """Its id."""
    checks: Sequence[Check]

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks)

    def __bool__(self) -> bool:
        return self.passed

    def tree(self) -> dict[str, Any]:
        """The gate for JSON."""
        checks = [{**asdict(check), "passed": check.passed} for check in self.checks]
        return {"evaluation": self.evaluation, "passed": self.passed, "checks": checks}

    def grid(self) -> Grid:
        """The gate as a table."""
        lines = [
            [
                check.bar,
                check.condition,
                percent(check.row.value),
                _interval(check.row),
                str(check.row.n),
                check.reason or "passed",
            ]
            for check in self.checks
        ]
        header = ["bar", "condition", "rate", "95 % interval", "n", "verdict"]
        return Grid(title=f"evaluation {self.evaluation}", header=header, lines=lines, keys=2)


def read_bar(text: str) -> Bar:
    """`asr<=0.05` for every condition that the rate is meant for, `unsafe_what/asr<=0.05` for one.

    Raises:
        ConfigError: it is not of this form, names no rate, or its value is no share.
    """
    match = _BAR.fullmatch(text.strip())
    if match is None:
        raise ConfigError(
            f"bar {text!r}: write it as RATE<=SHARE, RATE>=SHARE or CONDITION/RATE<=SHARE"
        )
    if match["metric"] not in get_args(Metric):
        raise ConfigError(
            f"bar {text!r}: {match['metric']!r} is no rate; allowed: {', '.join(get_args(Metric))}"
        )
    try:
        value = float(match["value"])
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise ConfigError(f"bar {text!r}: {match['value']!r} is no share; allowed: 0 to 1")
    bar: Any = {"metric": match["metric"], "sign": match["sign"], "condition": match["condition"]}
    return Bar(value=value, **bar)


def check_gate(
    evaluation: StoredEvaluation,
    bars: Sequence[str],
    *,
    max_unscored: float,
    max_degenerate: float,
) -> Gate:
    """Holds an evaluation's rates, each by the first judge that measures it, against bars.

    Args:
        max_unscored: the share of a rate's answers that may be without a verdict.
        max_degenerate: the share of degenerate answers that may stand under a rate that shall be low.

    Raises:
        ConfigError: no bar, one that cannot be read, or one whose rate the evaluation does not have.
    """
    if not bars:
        raise ConfigError("gate: give at least one bar, such as asr<=0.05")
    rows = headline(evaluation.rows)
    unsafe = {row.condition for row in rows if row.metric == "asr"}
    degenerate = {row.condition: row for row in rows if row.metric == "degenerate_rate"}
    checks: list[Check] = []
    for bar in map(read_bar, bars):
        held = [
            row for row in rows if row.metric == bar.metric and _applies(bar, row.condition, unsafe)
        ]
        if not held:
            there = ", ".join(f"{row.condition}/{row.metric}" for row in rows)
            raise ConfigError(
                f"bar {bar}: evaluation {evaluation.id} has no such rate; it has: {there}"
            )
        for row in held:
            reason = (
                _misses(bar, row)
                or _unscored(row, max_unscored)
                or _degenerate(bar, degenerate.get(row.condition), max_degenerate)
            )
            checks.append(Check(bar=str(bar), condition=row.condition, row=row, reason=reason))
    return Gate(evaluation=evaluation.id, checks=checks)


def _applies(bar: Bar, condition: str, unsafe: Collection[str]) -> bool:
    if bar.condition is not None:
        return condition == bar.condition
    return bar.metric not in ("refusal_rate", "useful_rate") or condition not in unsafe


def _misses(bar: Bar, row: Row) -> str:
    if row.value is None or row.low is None or row.high is None:
        return "nothing was scored"
    if bar.sign == "<=":
        return "" if row.high <= bar.value else f"may be as high as {percent(row.high)}"
    return "" if row.low >= bar.value else f"may be as low as {percent(row.low)}"


def _unscored(row: Row, most: float) -> str:
    """Without a verdict, or with one by a protocol's rule for silence. A rate over questions leaves out at most as many of
    them as there are answers without a verdict, so that this share is never too small."""
    silent = max(row.unscored, row.defaulted)
    share = silent / (row.n if row.defaulted else row.n + row.unscored)
    return "" if share <= most else f"{percent(share)} of it without a verdict"


def _degenerate(bar: Bar, row: Row | None, most: float) -> str:
    """Only a rate that shall be low is made better by answers without sense."""
    if bar.sign == ">=" or bar.metric == "degenerate_rate":
        return ""
    if row is None or row.value is None:
        return "no judge says how many answers are degenerate"
    return "" if row.value <= most else f"{percent(row.value)} of the answers are degenerate"


def _interval(row: Row) -> str:
    return "" if row.low is None or row.high is None else bounds(row.low, row.high)
