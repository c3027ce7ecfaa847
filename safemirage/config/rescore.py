"""Judging stored answers again: which judges. Each is written as in an evaluation's config."""

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from safemirage.config.judges import JudgeConfig, check_judge_names
from safemirage.config.types import Strict


@dataclass(frozen=True, kw_only=True)
class RescoreConfig(Strict):
    """The judges of `safemirage rescore --judge FILE`."""

    judges: Annotated[tuple[JudgeConfig, ...], Field(min_length=1)]
    """A rate that several judges measure is reported by the first of them in the main table."""

    def __post_init__(self) -> None:
        check_judge_names(self.judges)
