"""The two protocols by which the same verdicts become rates: `corrected`, and the original's, `paper`."""

from collections.abc import Sequence
from typing import assert_never

from safemirage.config.rates import ProtocolName
from safemirage.evaluation.metrics.paper import paper_score
from safemirage.evaluation.metrics.rates import Measures, Row, score
from safemirage.evaluation.samples import EvaluatedSample


def score_as(
    protocol: ProtocolName, model: str, samples: Sequence[EvaluatedSample], measures: Measures
) -> list[Row]:
    """Every rate of every condition by every judge that measures it, counted by the protocol's rules."""
    match protocol:
        case "corrected":
            return score(model, samples, measures)
        case "paper":
            return paper_score(model, samples, measures)
        case _:
            assert_never(protocol)
