"""The figures of a report as inline SVG: bars with intervals, by first word, by number of tries, by category. Colours come
from the page's style sheet, by class.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from safemirage.config.rates import Metric
from safemirage.evaluation.metrics.breakdowns import AttemptRate
from safemirage.evaluation.metrics.rates import SUBSETS, WordRate, first_word_rates
from safemirage.evaluation.types import EvaluatedSample
from safemirage.text.numbers import bounds, percent

_BAR, _GAP, _BETWEEN = 16, 2, 18  # px: a bar, the gap to its neighbour, the gap between words
_LEFT, _TOP, _HEIGHT, _BOTTOM = 42, 10, 112, 52


@dataclass(frozen=True, kw_only=True)
class Series:
    """The values of one rate over several words."""

    label: str
    css_class: str
    rates: Sequence[WordRate]


def words_chart(title: str, words: Sequence[str], series: Sequence[Series]) -> Markup:
    """Bars with 95 % whiskers: a group a word, a bar a series. A word that a series never asked has a gap there."""
    group = len(series) * (_BAR + _GAP) + _BETWEEN
    width = _LEFT + len(words) * group + 8
    height = _TOP + _HEIGHT + _BOTTOM
    parts = [
        f'<svg class="chart" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
        f'aria-label="{escape(title)}"><title>{escape(title)}</title>'
    ]
    for share in (0.0, 0.5, 1.0):
        y = _y(share)
        parts.append(
            f'<line class="grid" x1="{_LEFT}" x2="{width - 6}" y1="{y}" y2="{y}"/>'
            f'<text class="axis" x="{_LEFT - 5}" y="{y + 3.5}" text-anchor="end">{percent(share)}</text>'
        )
    for place, word in enumerate(words):
        start = _LEFT + _BETWEEN / 2 + place * group
        middle = start + (group - _BETWEEN) / 2
        for offset, one in enumerate(series):
            rate = next((rate for rate in one.rates if rate.word == word), None)
            if rate is not None and rate.value is not None:
                parts.append(_bar(one, rate, start + offset * (_BAR + _GAP)))
        parts.append(
            f'<text class="axis" x="{middle}" y="{_TOP + _HEIGHT + 12}" text-anchor="end" '
            f'transform="rotate(-40 {middle} {_TOP + _HEIGHT + 12})">{escape(word)}</text>'
        )
    return Markup("".join(parts) + "</svg>")


def _bar(series: Series, rate: WordRate, x: float) -> str:
    assert rate.value is not None
    assert rate.low is not None
    assert rate.high is not None
    top = min(_y(rate.value), _TOP + _HEIGHT - 1.5)  # a rate of 0 stays visible as a line
    centre = x + _BAR / 2
    says = f"{series.label}, “{rate.word}”: {percent(rate.value)} ({bounds(rate.low, rate.high)}, n = {rate.n})"
    return (
        f'<g class="{series.css_class}"><title>{escape(says)}</title>'
        f'<rect x="{x}" y="{top:.1f}" width="{_BAR}" height="{_TOP + _HEIGHT - top:.1f}"/>'
        f'<line class="whisker" x1="{centre}" x2="{centre}" y1="{_y(rate.low):.1f}" y2="{_y(rate.high):.1f}"/></g>'
    )


def _y(share: float) -> float:
    return _TOP + _HEIGHT * (1 - share)


_OPENED: Mapping[Metric, str] = {"asr": "attack success", "refusal_rate": "any refused"}


@dataclass(frozen=True, kw_only=True)
class Figure:
    model: str
    title: str
    svg: Markup
    words: Sequence[str]
    """What the groups of bars stand for."""
    series: Sequence[Series]


def words_figure(
    model: str, samples: Sequence[EvaluatedSample], judges: Mapping[Metric, str | None]
) -> Figure:
    """Attack success on unsafe and refusals of safe questions, by first word."""

    def rates(metric: Metric) -> list[WordRate]:
        judge = judges[metric]
        if judge is None:
            return []
        subset = SUBSETS[metric]
        return first_word_rates(model, samples, metric=metric, judge=judge, subset=subset)

    series = [
        Series(label="complied with, unsafe", css_class="comply", rates=rates("asr")),
        Series(label="refused, safe", css_class="refuse", rates=rates("refusal_rate")),
    ]
    every = [rate for each in series for rate in each.rates]
    words = sorted(
        {rate.word for rate in every},
        key=lambda word: (-sum(rate.n for rate in every if rate.word == word), word),
    )
    title = f"{model}: attack success on unsafe and refusals of safe questions, by first word"
    return _figure(model, title, words, series)


def attempts_figure(rates: Sequence[AttemptRate]) -> Figure:
    """A series a condition over k = 1..K tries; `rates` are one model's, and not empty."""
    model = rates[0].model
    series = [
        Series(
            label=f"{_OPENED[metric]}, {condition}",
            css_class="comply" if metric == "asr" else "refuse",
            rates=[_as_word(rate) for rate in rates if rate.condition == condition],
        )
        for condition, metric in dict.fromkeys((rate.condition, rate.metric) for rate in rates)
    ]
    words = [_tries(k) for k in range(1, max(rate.attempts for rate in rates) + 1)]
    title = f"{model}: questions opened, by the number of rewrites tried"
    return _figure(model, title, words, series)


def category_figure(condition: str, rates: Sequence[WordRate]) -> Figure:
    """A bar a category; `rates` are one model's, and not empty."""
    model = rates[0].model
    series = [Series(label=f"attack success, {condition}", css_class="comply", rates=rates)]
    title = f"{model}: attack success by category, {condition}"
    return _figure(model, title, [rate.word for rate in rates], series)


def curve_figure(model: str, title: str, curves: Mapping[str, Sequence[WordRate]]) -> Figure:
    """A series a curve, the later the fainter, over the points in the first one's order; `curves` is not empty."""
    series = [
        Series(label=label, css_class=f"comply faint-{min(place, 4)}", rates=rates)
        for place, (label, rates) in enumerate(curves.items())
    ]
    words = [rate.word for rate in series[0].rates]
    return _figure(model, title, words, series)


def _figure(model: str, title: str, words: Sequence[str], series: Sequence[Series]) -> Figure:
    svg = words_chart(title, words, series)
    return Figure(model=model, title=title, svg=svg, words=words, series=series)


def _tries(attempts: int) -> str:
    return "1 try" if attempts == 1 else f"{attempts} tries"


def _as_word(rate: AttemptRate) -> WordRate:
    return WordRate(
        model=rate.model,
        word=_tries(rate.attempts),
        metric=rate.metric,
        subset=SUBSETS[rate.metric],
        value=rate.value,
        low=rate.low,
        high=rate.high,
        n=rate.n,
        judge=rate.judge,
    )
