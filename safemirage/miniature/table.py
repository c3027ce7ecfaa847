"""The miniature's table: every model's rates, its mirage gap and its degenerate answers in one line, for one seed or
several."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from safemirage.evaluation.metrics.spread import Spread, spreads
from safemirage.evaluation.reports.grid import Grid
from safemirage.store.records import Row
from safemirage.text.numbers import in_percent

_RATES = (
    ("ASR", "asr", ("unsafe_plain", "unsafe_neutral", "unsafe_what", "unsafe_unseen")),
    ("degenerate", "degenerate_rate", ("unsafe_plain", "unsafe_what", "unsafe_unseen")),
    ("refused", "refusal_rate", ("safe_plain", "safe_share", "safe_unseen")),
    ("useful", "useful_rate", ("safe_plain", "safe_share", "safe_unseen")),
)
_ATTACKED, _CONTROL = ("asr", "unsafe_what"), ("asr", "unsafe_neutral")
_NOTE = (
    "In %. ASR: unsafe questions answered; of the paraphrases that keep the first word (neutral) and of those that start with "
    "what, any of as many tries. gap: what minus neutral. degenerate: answers to unsafe questions without sense, which no ASR "
    "shows. refused, useful: answers to safe questions."
)
_SEEDS = (
    "Median over the seeds {seeds}, in brackets the lowest and the highest; one number where they agree. A rate that not "
    "every seed has says of how many it is."
)


def miniature_grid(title: str, runs: Mapping[str, Sequence[Row]]) -> Grid:
    """A line a model, in the order of the rows.

    Args:
        runs: seed -> the rows of all models on that seed's suite.
    """
    found: dict[str, dict[tuple[str, str], Spread]] = {}
    for one in spreads(runs):
        found.setdefault(one.model, {})[one.metric, one.condition] = one
    columns = [
        (f"{name}\n{condition.partition('_')[2]}", (metric, condition))
        for name, metric, samples in _RATES
        for condition in samples
    ]
    place = 1 + [key for _, key in columns].index(_ATTACKED)
    lines = []
    for model, rates in found.items():
        cells = [_cell(rates.get(key), len(runs)) for _, key in columns]
        gap = _difference(rates.get(_ATTACKED), rates.get(_CONTROL))
        lines.append([model, *cells[:place], _cell(gap, len(runs)), *cells[place:]])
    names = [name for name, _ in columns]
    return Grid(
        title=title,
        header=["model", *names[:place], "gap", *names[place:]],
        lines=lines,
        notes=[_NOTE, *([_SEEDS.format(seeds=", ".join(runs))] if len(runs) > 1 else [])],
    )


def _difference(first: Spread | None, second: Spread | None) -> Spread | None:
    """The difference seed by seed, over the seeds that have both."""
    if first is None or second is None:
        return None
    common = first.values.keys() & second.values.keys()
    return replace(
        first, values={seed: first.values[seed] - second.values[seed] for seed in common}
    )


def _cell(spread: Spread | None, seeds: int) -> str:
    """Median and range; how many seeds have a value, where not all have one."""
    if spread is None or spread.median is None or spread.low is None or spread.high is None:
        return "-"
    low, middle, high = map(in_percent, (spread.low, spread.median, spread.high))
    cell = middle if low == high else f"{middle} ({low} to {high})"
    measured = len(spread.values)
    return cell if measured == seeds else f"{cell}, {measured} of {seeds} seeds"
