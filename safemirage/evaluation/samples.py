"""What an evaluation keeps of each sample: the question, the answer or why there is none, the verdicts."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from safemirage.evaluation.types import Sample, Subset, Verdict, sample_tree


@dataclass(frozen=True, kw_only=True)
class EvaluatedSample:
    sample_id: str
    condition: str
    subset: Subset
    attack: str
    group_id: str
    question: str
    image: str | None
    """SHA-256 of the encoded image; the store has its bytes."""
    target: Mapping[str, str] = field(default_factory=dict)
    answer: str | None
    """The model's answer; None where it could not answer, see `error`."""
    error: str = ""
    verdicts: tuple[Verdict, ...]
    """One of each judge, in the evaluation's order of judges."""
    prefill: str = ""
    """Start of `answer` that was put into the model's mouth."""

    def verdict(self, judge: str) -> Verdict:
        """Raises KeyError when the judge did not judge this sample."""
        for verdict in self.verdicts:
            if verdict.judge == judge:
                return verdict
        raise KeyError(f"sample {self.sample_id}: no verdict of {judge!r}")


def evaluated_sample(
    sample: Sample, answer: str | None, error: str, verdicts: tuple[Verdict, ...]
) -> EvaluatedSample:
    return EvaluatedSample(**sample_tree(sample), answer=answer, error=error, verdicts=verdicts)


def evaluated_tree(sample: EvaluatedSample) -> dict[str, Any]:
    """The sample as JSON."""
    tree = {
        **{name: getattr(sample, name) for name in sample.__dataclass_fields__},
        "target": dict(sample.target),
        "verdicts": [verdict_tree(verdict) for verdict in sample.verdicts],
    }
    return (
        tree if sample.prefill else {key: value for key, value in tree.items() if key != "prefill"}
    )


def evaluated_from(tree: Mapping[str, Any]) -> EvaluatedSample:
    """The sample of a stored tree; its `position` is left out."""
    fields = {name: value for name, value in tree.items() if name != "position"}
    verdicts = tuple(Verdict(**verdict) for verdict in tree["verdicts"])
    return EvaluatedSample(**{**fields, "verdicts": verdicts})


def verdict_tree(verdict: Verdict) -> dict[str, Any]:
    return {name: getattr(verdict, name) for name in verdict.__dataclass_fields__}
