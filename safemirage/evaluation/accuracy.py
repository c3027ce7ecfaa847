"""The metric `accuracy`: the mean score of the answers to questions of utility, the same under either protocol.

With a 95 % interval, clustered by image (`share_rate`). Answers without a score stay outside.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict

from safemirage.config.evaluate import Metric
from safemirage.evaluation.bootstrap import share_rate
from safemirage.evaluation.metrics import Measures, Row, cluster_of, grouped
from safemirage.evaluation.samples import Sample
from safemirage.evaluation.statistics import Rate

ACCURACY: Metric = "accuracy"


def accuracy_rows(model: str, samples: Sequence[Sample], measures: Measures) -> list[Row]:
    """A row for each case and each judge that measures accuracy; cases in order of appearance."""
    judges = [name for name, metrics in measures.items() if ACCURACY in metrics]
    cases: Mapping[str, list[Sample]] = grouped(samples, lambda sample: sample.case)
    return [
        Row(
            model=model,
            case=case,
            metric=ACCURACY,
            judge=judge,
            unscored=sum(sample.verdict(judge).score is None for sample in members),
            **asdict(mean_score(members, judge)),
        )
        for case, members in cases.items()
        for judge in judges
    ]


def mean_score(samples: Sequence[Sample], judge: str) -> Rate:
    """The mean of the judge's scores, in 0..1, over the answers that have one."""
    scored = [
        (score, cluster_of(sample))
        for sample in samples
        if (score := sample.verdict(judge).score) is not None
    ]
    return share_rate([score for score, _ in scored], [cluster for _, cluster in scored])
