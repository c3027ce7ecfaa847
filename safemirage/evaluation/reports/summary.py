"""Numbers in sentences: what one model's rates mean, and what a table of rates does not show by itself.

What is called a mirage is what the paired test against neutral paraphrases shows: exact McNemar after Holm, and an
interval over images that leaves 0 out, because questions about one image are no independent evidence.
"""

from collections.abc import Mapping, Sequence

from safemirage.config.rates import Metric
from safemirage.evaluation.metrics.gap import ConditionGap
from safemirage.evaluation.metrics.rates import SUBSETS
from safemirage.evaluation.metrics.significance import ALPHA, PairedChange
from safemirage.evaluation.reports.format import ATTACKS, Column, Table
from safemirage.text.numbers import p_value, percent, points

_FOUND: Mapping[Metric, str] = {
    "asr": "a safety mirage: it reads the wording, not the content",
    "refusal_rate": "it refuses the wording, not the content",
}
_OPENED: Mapping[Metric, str] = {"asr": "complied with", "refusal_rate": "refused"}
_CONTROLLED = "in as many neutral paraphrases"


def model_says(
    model: str, table: Table, columns: Sequence[Column], gaps: Sequence[ConditionGap]
) -> list[str]:
    """`gaps`: of all models of the report, adjusted together."""
    mine = [gap for gap in gaps if gap.model == model]
    asr, degenerate, refused, useful = (
        _values(table, columns, metric)
        for metric in ("asr", "degenerate_rate", "refusal_rate", "useful_rate")
    )
    sentences = []
    if asr:
        sentences.append(f"It complies with {_each(asr, 'of the unsafe questions')}.")
        sentences += _degenerate(degenerate)
        sentences += _gaps_say("asr", mine, asr)
    if refused:
        sentences.append(f"It refuses {_each(refused, 'of the safe questions')}.")
        sentences += _gaps_say("refusal_rate", mine, refused)
    if useful:
        sentences.append(f"Useful are {_each(useful, 'of its answers to safe questions')}.")
    return sentences


def _values(table: Table, columns: Sequence[Column], metric: Metric) -> dict[str, float]:
    """The rate under each attack, where there is one."""
    found = {
        column.attack: table.get((column.condition, metric))
        for column in columns
        if column.subset == SUBSETS[metric]
    }
    return {attack: row.value for attack, row in found.items() if row and row.value is not None}


def _degenerate(values: Mapping[str, float]) -> list[str]:
    if not values:
        return ["Whether its answers have sense was not measured."]
    if not any(values.values()):
        return ["None of its answers to them is degenerate."]
    return [
        f"Degenerate are {_each(values, 'of its answers to them')}: no compliance, but no safe answer either."
    ]


def _gaps_say(
    metric: Metric, gaps: Sequence[ConditionGap], values: Mapping[str, float]
) -> list[str]:
    found = [gap for gap in gaps if gap.metric == metric and gap.gap is not None]
    if not found:
        without = "no neutral paraphrases stand beside the attacks, as many and scored"
        return [f"Whether that is a mirage is not shown: {without}."] * (len(values) > 1)
    return [_gap_says(metric, gap) for gap in found]


def _gap_says(metric: Metric, one: ConditionGap) -> str:
    assert one.gap is not None, "gaps without a value were left out"
    assert one.p_holm is not None, "every gap's p was adjusted"
    change = one.gap.change
    how = ATTACKS.get(one.attack, f"attacked by “{one.attack}”")
    figures = f"{_points(change)}; p {_sign(one.p_holm)} after Holm"
    if one.p_holm < ALPHA and change.low > 0:
        return f"When {how}, more questions are {_OPENED[metric]} than {_CONTROLLED} ({figures}): {_FOUND[metric]}."
    if one.p_holm < ALPHA and change.high < 0:
        return f"When {how}, fewer questions are {_OPENED[metric]} than {_CONTROLLED} ({figures})."
    return f"When {how}, no difference to {_CONTROLLED[3:]} is shown ({figures}; n = {change.n})."


def _points(change: PairedChange) -> str:
    value, low, high = map(points, (change.difference, change.low, change.high))
    return f"{value} points, 95 % {low} to {high}"


def _sign(value: float) -> str:
    said = p_value(value)
    return said if said.startswith("<") else f"= {said}"


def _each(values: Mapping[str, float], of: str) -> str:
    shares = {percent(value) for value in values.values()}
    if len(values) > 1 and len(shares) == 1:
        return f"{shares.pop()} {of}, however asked"
    parts = [f"{percent(value)} ({attack})" for attack, value in values.items()]
    shown = ", ".join(parts[:-1]) + f" and {parts[-1]}" if len(parts) > 1 else parts[0]
    return f"{shown} {of}"
