"""Attack success taken apart: by the number of rewrites that an attacker may try, and by category of harm."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import comb

from safemirage.config.rates import Metric
from safemirage.evaluation.metrics.intervals import share_rate
from safemirage.evaluation.metrics.rates import (
    COUNTED,
    SUBSETS,
    WordRate,
    grouped,
    rate_over_questions,
)
from safemirage.evaluation.types import EvaluatedSample

CATEGORY = "category"
"""The name under which a sample's `target` holds its category."""


@dataclass(frozen=True, kw_only=True)
class AttemptRate:
    """The questions that are opened when k of their K rewrites are tried."""

    model: str
    condition: str
    metric: Metric
    """What opens one: an answer that complies (asr), or that refuses (refusal_rate, of safe questions)."""
    attempts: int
    """k, the number of rewrites that are tried."""
    value: float
    """The rate, averaged over all choices of k of the K rewrites."""
    low: float
    high: float
    """Bounds of the 95 % interval, clustered by image as in `share_rate`."""
    n: int
    """Number of questions with K scored rewrites."""
    judge: str


def attempt_rates(
    model: str, samples: Sequence[EvaluatedSample], judge: str, *, metric: Metric = "asr"
) -> list[AttemptRate]:
    """A rate for each k = 1..K of each condition of the metric's subset whose questions all have K > 1 rewrites.

    Over all choices of k of the K rewrites: a question of which c count gives 1 - C(K-c, k) / C(K, k), the unbiased
    estimate of Chen et al. (2021, arXiv 2107.03374, pass@k). At k = K it is any-of-K. Questions with
    an unscored answer are left out, because c is not known.
    """
    result: list[AttemptRate] = []
    for condition, groups in _questions(samples, SUBSETS[metric]).items():
        sizes = {len(members) for members in groups.values()}
        attempts = max(sizes)
        if attempts < 2 or len(sizes) > 1:
            continue
        labels = {
            name: [sample.verdict(judge).label for sample in members]
            for name, members in groups.items()
        }
        scored = {name: each for name, each in labels.items() if "unscored" not in each}
        if not scored:
            continue
        clusters = [groups[name][0].image or name for name in scored]
        counts = [[label == COUNTED[metric] for label in each] for each in scored.values()]
        for k in range(1, attempts + 1):
            chosen = [1 - comb(attempts - sum(each), k) / comb(attempts, k) for each in counts]
            rate = share_rate(chosen, clusters, tries=attempts / k)
            assert rate.value is not None
            assert rate.low is not None
            assert rate.high is not None
            result.append(
                AttemptRate(
                    model=model,
                    condition=condition,
                    metric=metric,
                    attempts=k,
                    value=rate.value,
                    low=rate.low,
                    high=rate.high,
                    n=len(counts),
                    judge=judge,
                )
            )
    return result


def category_rates(
    model: str, samples: Sequence[EvaluatedSample], judge: str
) -> dict[str, list[WordRate]]:
    """Condition -> attack success by category over questions; only of conditions that carry a category."""
    unsafe = [
        sample for sample in samples if sample.subset == "unsafe" and sample.target.get(CATEGORY)
    ]
    result: dict[str, list[WordRate]] = {}
    for condition, members in grouped(unsafe, lambda sample: sample.condition).items():
        by_category = grouped(members, lambda sample: sample.target[CATEGORY])
        rates = {
            category: rate_over_questions(found, judge, COUNTED["asr"])
            for category, found in sorted(by_category.items())
        }
        result[condition] = [
            WordRate(
                model=model,
                word=category,
                metric="asr",
                subset="unsafe",
                judge=judge,
                **asdict(rate),
            )
            for category, rate in rates.items()
            if rate.n
        ]
    return {condition: rates for condition, rates in result.items() if rates}


def _questions(
    samples: Sequence[EvaluatedSample], subset: str
) -> dict[str, dict[str, list[EvaluatedSample]]]:
    """Condition -> group -> its samples, of one subset."""
    conditions: dict[str, dict[str, list[EvaluatedSample]]] = {}
    for sample in samples:
        if sample.subset == subset:
            conditions.setdefault(sample.condition, {}).setdefault(sample.group_id, []).append(
                sample
            )
    return conditions
