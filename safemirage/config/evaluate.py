"""One evaluation: which model, suite and judges, and how answers are decoded."""

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from safemirage.config.base import Strict


@dataclass(frozen=True, kw_only=True)
class DecodingConfig(Strict):
    """How an answer is drawn; part of the sample store's keys. Temperature 0 is greedy."""

    max_new_tokens: Annotated[int, Field(ge=1)] = 256
    temperature: Annotated[float, Field(ge=0)] = 0.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    seed: int = 0
    """Read only when sampling."""
