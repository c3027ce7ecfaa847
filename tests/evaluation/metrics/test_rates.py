"""Rates from labels, by tables worked by hand."""

import pytest

from safemirage.config.rates import Label
from safemirage.evaluation.metrics.intervals import wilson_rate
from safemirage.evaluation.metrics.rates import first_word_rates, headline, score
from safemirage.evaluation.types import EvaluatedSample
from safemirage.store.records import Row
from tests.evaluation.samples import make_evaluated

MEASURES = {"oracle": ("asr",), "keywords": ("refusal_rate", "asr"), "useful": ("useful_rate",)}


def _samples(labels: list[Label], **fields: str) -> list[EvaluatedSample]:
    return [
        make_evaluated(f"{index}", {"oracle": label, "keywords": label, "useful": label}, **fields)  # type: ignore[arg-type]
        for index, label in enumerate(labels)
    ]


def _row(rows: list[Row], metric: str, judge: str) -> Row:
    (row,) = [row for row in rows if (row.metric, row.judge) == (metric, judge)]
    return row


def test_score_of_single_answers_counts_each_label_and_leaves_unscored_out() -> None:
    rows = score("m", _samples(["comply", "comply", "refuse", "other", "unscored"]), MEASURES)
    asr = _row(rows, "asr", "oracle")
    assert (asr.model, asr.condition, asr.value, asr.n, asr.unscored) == (
        "m",
        "unsafe_plain",
        0.5,
        4,
        1,
    )
    interval = wilson_rate(2, 4)
    assert (asr.low, asr.high) == (interval.low, interval.high)
    assert _row(rows, "refusal_rate", "keywords").value == 0.25
    assert _row(rows, "useful_rate", "useful").value == 0.5
    assert len(rows) == 4


def test_score_asr_takes_any_of_k_and_refusals_take_each_answer() -> None:
    labels: dict[str, list[Label]] = {
        "q1": ["refuse", "comply", "refuse"],  # one of three: success
        "q2": ["refuse", "refuse", "refuse"],  # failure
        "q3": ["comply", "comply", "unscored"],  # success whatever the third
        "q4": ["refuse", "unscored", "other"],  # unknown: outside the rate
    }
    samples = [
        make_evaluated(
            f"{group}-{index}", {"keywords": label}, condition="unsafe_what", group=group
        )
        for group, some in labels.items()
        for index, label in enumerate(some)
    ]
    rows = score("m", samples, {"keywords": ("refusal_rate", "asr")})
    asr = _row(rows, "asr", "keywords")
    assert (asr.value, asr.n, asr.unscored) == (pytest.approx(2 / 3), 3, 2)
    refusals = _row(rows, "refusal_rate", "keywords")
    assert (refusals.value, refusals.n, refusals.unscored) == (pytest.approx(6 / 10), 10, 2)


def test_score_of_safe_samples_has_no_asr() -> None:
    rows = score("m", _samples(["comply", "refuse"], condition="safe_plain"), MEASURES)
    assert {(row.metric, row.judge) for row in rows} == {
        ("refusal_rate", "keywords"),
        ("useful_rate", "useful"),
    }


def test_score_where_nothing_is_scored_gives_no_number() -> None:
    (row,) = score("m", _samples(["unscored", "unscored"]), {"oracle": ("asr",)})
    assert (row.value, row.low, row.high, row.n, row.unscored) == (None, None, None, 0, 2)


def test_score_keeps_the_order_of_samples_and_headline_the_first_judge() -> None:
    samples = _samples(["comply"], condition="unsafe_what") + _samples(["comply"])
    rows = score("m", samples, MEASURES)
    top = headline(rows)
    assert [(row.condition, row.metric, row.judge) for row in top] == [
        ("unsafe_what", "asr", "oracle"),
        ("unsafe_what", "refusal_rate", "keywords"),
        ("unsafe_what", "useful_rate", "useful"),
        ("unsafe_plain", "asr", "oracle"),
        ("unsafe_plain", "refusal_rate", "keywords"),
        ("unsafe_plain", "useful_rate", "useful"),
    ]
    assert len(rows) == 8


def test_score_by_a_judge_that_did_not_judge_is_an_error() -> None:
    with pytest.raises(KeyError, match="'model'"):
        score("m", _samples(["comply"]), {"model": ("asr",)})


def test_first_word_rates_count_answers_by_word_most_frequent_first() -> None:
    asked: list[tuple[str, Label]] = [
        ("share a", "refuse"),
        ("share b", "refuse"),
        ("what a", "comply"),
        ("what b", "comply"),
        ("What c", "refuse"),
        ("tell d", "unscored"),
    ]
    samples = [
        make_evaluated(str(index), {"keywords": label}, question=question)
        for index, (question, label) in enumerate(asked)
    ]
    samples.append(make_evaluated("safe", {"keywords": "refuse"}, condition="safe_plain"))
    rates = first_word_rates("m", samples, metric="asr", judge="keywords", subset="unsafe")
    assert [(rate.word, rate.value, rate.n) for rate in rates] == [
        ("what", pytest.approx(2 / 3), 3),
        ("share", 0.0, 2),
        ("tell", None, 0),
    ]
