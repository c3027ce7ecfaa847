"""The same answers counted in several ways, worked by hand."""

from dataclasses import replace

import pytest

from safemirage.config.rates import Label, ProtocolName
from safemirage.evaluation.metrics.evaluation import StoredEvaluation
from safemirage.evaluation.metrics.rates import score
from safemirage.evaluation.record import EvaluationRecord
from safemirage.evaluation.reports.tables.waterfall import waterfalls
from tests.evaluation.samples import make_evaluated


def _ruled(
    name: str, judge: str, labels: str, protocol: ProtocolName = "corrected"
) -> StoredEvaluation:
    names: dict[str, Label] = {"c": "comply", "r": "refuse", "u": "unscored"}
    samples = [
        make_evaluated(f"s{place}", {judge: names[letter]}) for place, letter in enumerate(labels)
    ]
    rows = score(name, samples, {judge: ("asr", "refusal_rate")})
    record = EvaluationRecord(name=name, protocol=protocol)
    return StoredEvaluation(id=f"{name}-id", name=name, rows=rows, samples=samples, record=record)


def test_waterfall_shows_what_each_ruler_adds_to_the_one_before() -> None:
    words = _ruled("words", "keywords", "cccr", "paper")
    guard = _ruled("guard", "guard", "crrr")
    none = _ruled("none", "broken", "uuuu")
    (found,) = waterfalls([words, guard, none])
    assert (found.condition, found.metric) == ("unsafe_plain", "asr")
    assert [step.row.value for step in found.steps] == [0.75, 0.25, None]
    assert [step.change for step in found.steps] == [None, pytest.approx(-0.5), None]
    assert [step.protocol for step in found.steps] == ["paper", "corrected", "corrected"]
    assert [step.evaluation for step in found.steps] == ["words-id", "guard-id", "none-id"]


def test_waterfall_needs_the_same_answers() -> None:
    first, second = _ruled("a", "keywords", "cc"), _ruled("b", "keywords", "rr")
    other = [replace(sample, answer="another") for sample in second.samples]
    assert waterfalls([first, replace(second, samples=other)]) == []
    assert waterfalls([first]) == []


def test_waterfall_has_no_step_where_the_ruler_is_the_same() -> None:
    twins = [_ruled(name, "keywords", "ccr") for name in ("npo", "npo_beta_0.1")]
    assert waterfalls(twins) == []
    (found,) = waterfalls([*twins, _ruled("guard", "guard", "crr")])
    assert [step.name for step in found.steps] == ["npo", "guard"]
