"""What every page that safemirage writes shares: one file, no script, text of models and suites escaped, pictures inside."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import jinja2

from safemirage.evaluation.reports.format import Column
from safemirage.evaluation.reports.rates import silence
from safemirage.evaluation.types import EvaluatedSample, ImageInput
from safemirage.models.images import ImageError
from safemirage.store.database import Store
from safemirage.text.numbers import percent


def render(template: str, **values: Any) -> str:
    """The page; `written_at` is added. The page may load nothing and run no script."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("safemirage.evaluation.reports", "html"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = percent
    environment.filters["silence"] = silence
    written_at = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    return environment.get_template(template).render(written_at=written_at, **values)


def image_uri(store: Store, digest: str | None) -> str | None:
    """The stored image as a data URI; None where the sample has none, the store lacks its bytes, or they are no image:
    then the sample says so itself."""
    data = store.samples.image(digest) if digest else None
    try:
        return ImageInput(data).data_uri if data is not None else None
    except ImageError:
        return None


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
