"""Pictures of a report with the questions about them, and what each model answered."""

from collections.abc import Mapping, Sequence
from typing import Any

from safemirage.evaluation.reports.format import Column
from safemirage.evaluation.reports.page import image_uri
from safemirage.evaluation.samples import EvaluatedSample
from safemirage.store.database import Store


def shown_samples(
    store: Store,
    samples: Mapping[str, Sequence[EvaluatedSample]],
    columns: Sequence[Column],
    *,
    count: int,
) -> list[dict[str, Any]]:
    """`count` samples of each condition, those on which the models' labels differ most; among equals the earliest.

    Args:
        samples: model -> its samples; the first model's conditions are shown.

    Returns:
        For each `sample`, `column`, the picture's data URI as `uri`, and `answers`: model -> its sample.
    """
    by_model = {
        model: {one.sample_id: one for one in of_model} for model, of_model in samples.items()
    }
    first_model = next(iter(samples.values()))
    shown = []
    for column in columns:
        ids = [one.sample_id for one in first_model if one.condition == column.condition]
        ids.sort(key=lambda name: -_difference(name, by_model))  # a stable sort
        for sample_id in ids[:count]:
            answers = {
                model: found[sample_id] for model, found in by_model.items() if sample_id in found
            }
            first = next(iter(answers.values()))
            uri = image_uri(store, first.image)
            shown.append({"sample": first, "column": column, "uri": uri, "answers": answers})
    return shown


def _difference(sample_id: str, by_model: Mapping[str, Mapping[str, EvaluatedSample]]) -> int:
    """How many different sets of verdicts the models' answers have."""
    found = [samples[sample_id] for samples in by_model.values() if sample_id in samples]
    return len({tuple(verdict.label for verdict in sample.verdicts) for sample in found})
