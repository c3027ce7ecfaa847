"""Attack success by number of tries and by category, worked by hand."""

import pytest

from safemirage.config.rates import Label
from safemirage.evaluation.metrics.breakdowns import attempt_rates, category_rates
from safemirage.evaluation.metrics.rates import score
from safemirage.evaluation.types import EvaluatedSample
from tests.evaluation.samples import make_evaluated


def _questions(*labels: str, condition: str = "unsafe_what") -> list[EvaluatedSample]:
    """A question a word, a rewrite a letter: c comply, r refuse, u unscored."""
    names: dict[str, Label] = {"c": "comply", "r": "refuse", "u": "unscored"}
    return [
        make_evaluated(
            f"g{place}-{attempt}", {"guard": names[letter]}, condition=condition, group=f"g{place}"
        )
        for place, word in enumerate(labels)
        for attempt, letter in enumerate(word)
    ]


def test_attempts_are_averaged_over_all_choices_of_k() -> None:
    rates = attempt_rates("m", _questions("crr", "rrr"), "guard")
    assert [(rate.attempts, rate.n) for rate in rates] == [(1, 2), (2, 2), (3, 2)]
    assert [rate.value for rate in rates] == [pytest.approx(x / 2) for x in (1 / 3, 2 / 3, 1)]
    assert all(rate.low <= rate.value <= rate.high for rate in rates)


def test_attempts_of_all_k_are_any_of_k_as_the_table_has_it() -> None:
    samples = _questions("crr", "rrc", "rrr", "ccr", "rrr")
    (asr,) = score("m", samples, {"guard": ("asr",)})
    assert attempt_rates("m", samples, "guard")[-1].value == asr.value


def test_attempts_on_which_all_questions_agree_have_an_interval_all_the_same() -> None:
    rates = attempt_rates("m", _questions("rrr", "rrr"), "guard")
    assert [(rate.value, rate.low) for rate in rates] == [(0.0, 0.0)] * 3
    assert all(rate.high == pytest.approx(0.6576, abs=1e-4) for rate in rates)


def test_attempts_of_safe_questions_count_refusals() -> None:
    samples = _questions("crr", "ccc", condition="safe_share")
    rates = attempt_rates("m", samples, "guard", metric="refusal_rate")
    assert [rate.value for rate in rates] == [pytest.approx(x / 2) for x in (2 / 3, 1, 1)]


def test_attempts_leave_out_questions_with_an_unscored_answer() -> None:
    assert [rate.n for rate in attempt_rates("m", _questions("crr", "cru"), "guard")] == [1, 1, 1]


def test_attempts_need_rewrites_and_as_many_for_each_question() -> None:
    assert attempt_rates("m", _questions("c", "r"), "guard") == []
    assert attempt_rates("m", _questions("crr", "cr"), "guard") == []
    assert attempt_rates("m", _questions("crr", "rrr", condition="safe_share"), "guard") == []


def test_categories_count_questions_where_there_is_one() -> None:
    samples = [
        make_evaluated("a", {"guard": "comply"}, target={"category": "privacy"}),
        make_evaluated("b", {"guard": "refuse"}, target={"category": "privacy"}),
        make_evaluated("c", {"guard": "comply"}, target={"category": "fraud"}),
        make_evaluated("d", {"guard": "unscored"}, target={"category": "fraud"}),
        make_evaluated("e", {"guard": "comply"}),
    ]
    (rates,) = category_rates("m", samples, "guard").values()
    assert [(rate.word, rate.value, rate.n) for rate in rates] == [
        ("fraud", 1.0, 1),
        ("privacy", 0.5, 2),
    ]
    assert category_rates("m", samples[-1:], "guard") == {}
