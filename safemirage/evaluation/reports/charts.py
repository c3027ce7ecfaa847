"""Bar charts as inline SVG: rates by first word. Colours come from the page's style sheet, by class."""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from safemirage.evaluation.metrics.rates import WordRate
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
