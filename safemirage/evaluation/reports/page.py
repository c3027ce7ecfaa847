"""What every page that safemirage writes shares: one file, no script, text of models and suites escaped."""

from datetime import UTC, datetime
from typing import Any

import jinja2

from safemirage.evaluation.reports.format import silence
from safemirage.evaluation.types import ImageInput
from safemirage.models.images import ImageError
from safemirage.store.database import Store
from safemirage.text.numbers import percent, points


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
    environment.filters["points"] = points
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
