"""The figures of a report: bars with intervals, by first word, by number of tries, by category."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from safemirage.config.rates import Metric
from safemirage.evaluation.metrics.breakdowns import AttemptRate
from safemirage.evaluation.metrics.rates import SUBSETS, WordRate, first_word_rates
from safemirage.evaluation.reports.charts import Series, words_chart
from safemirage.evaluation.samples import EvaluatedSample

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
