"""Rates over seeds: median and range, worked by hand."""

from collections.abc import Sequence

from safemirage.config.rates import Label
from safemirage.evaluation.metrics.rates import score
from safemirage.evaluation.metrics.spread import spreads
from safemirage.store.records import Row
from tests.evaluation.samples import make_evaluated

MEASURES = {"j": ("asr", "refusal_rate", "useful_rate", "degenerate_rate")}


def _rows(model: str, unsafe: Sequence[Label], safe: Sequence[Label] = ()) -> list[Row]:
    samples = [make_evaluated(f"u{place}", {"j": label}) for place, label in enumerate(unsafe)]
    samples += [
        make_evaluated(f"s{place}", {"j": label}, condition="safe_plain")
        for place, label in enumerate(safe)
    ]
    return score(model, samples, MEASURES)


def test_spread_is_median_and_range_over_seeds() -> None:
    runs = {
        "10": _rows("npo", ["comply", "comply", "comply", "degenerate"], ["comply"] * 4),
        "11": _rows("npo", ["refuse", "refuse", "comply", "refuse"], ["comply"] * 4),
        "12": _rows("npo", ["comply", "refuse", "comply", "refuse"], ["comply"] * 3 + ["refuse"]),
    }
    found = {(one.condition, one.metric): one for one in spreads(runs)}
    asr = found["unsafe_plain", "asr"]
    assert (asr.median, asr.low, asr.high) == (0.5, 0.25, 0.75)
    assert asr.values == {"10": 0.75, "11": 0.25, "12": 0.5}
    useful = found["safe_plain", "useful_rate"]
    assert (useful.median, useful.low, useful.high) == (1.0, 0.75, 1.0)


def test_spread_leaves_out_seeds_without_a_value() -> None:
    runs = {
        "10": [*_rows("base", ["comply"]), *_rows("npo", ["refuse"])],
        "11": _rows("base", ["unscored"]),
    }
    base, npo = (one for one in spreads(runs) if one.metric == "asr")
    assert base.values == {"10": 1.0}
    assert npo.values == {"10": 0.0}
