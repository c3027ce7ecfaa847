"""The files that a run trains on: LLaVA conversation JSON, and the folder that its images lie under."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, Any

from pydantic import Field

from safemirage.config.types import Strict, data_path

NAMED_ANSWERS = ("refusals", "idk")


@dataclass(frozen=True, kw_only=True)
class DataConfig(Strict):
    """The files that a run trains on, and which of their records it takes."""

    retain: str = data_path()
    """What the model shall keep saying; the whole training set of `sft`."""
    forget: str | None = data_path(None)
    """What the model shall unlearn; needed by every method but `sft`."""
    preferred: str | None = data_path(None)
    """What the model shall say to the forget set's questions instead, record by record; `dpo` and `idk` need it or
    `preferred_answers`."""
    preferred_answers: str | tuple[str, ...] | None = None
    """What stands in the place of `preferred`: one of these answers for each forget record, drawn by the run's seed.
    Texts, or the name of a list in safemirage/data/preferred.py: `refusals` or `idk`."""
    decouple: str | None = data_path(None)
    """The forget set's questions about harmless images, with ordinary answers; `method.decouple_weight` needs it."""
    image_folder: str | None = data_path(None)
    """Root of the `image` paths. Left out, records must be text only."""
    skip_bad: Annotated[int, Field(ge=0)] = 0
    """How many unusable records of each file may be left out, each named in a warning, instead of refusing the file."""
    retain_limit: Annotated[int, Field(ge=1)] | None = None
    """Draw this many retain records, by the run's seed (the original always draws 2,000)."""
    group_by_length: bool = False
    """Put samples of like length, image tokens included, into one step: less padding, and a less mixed batch."""

    def paths(self) -> dict[str, str]:
        """The files and the folder that are named, by their field."""
        named = {
            "retain": self.retain,
            "forget": self.forget,
            "preferred": self.preferred,
            "decouple": self.decouple,
            "image_folder": self.image_folder,
        }
        return {name: path for name, path in named.items() if path is not None}

    def with_paths(self, change: Callable[[str, str], str]) -> "DataConfig":
        """A copy in which each path is `change(field, path)`."""
        changed: dict[str, Any] = {name: change(name, path) for name, path in self.paths().items()}
        return replace(self, **changed)

    def __post_init__(self) -> None:
        answers = self.preferred_answers
        if answers is None:
            return
        if self.preferred is not None:
            raise ValueError(
                f"preferred: {self.preferred!r} beside preferred_answers={answers!r}; give one of them"
            )
        if answers == () or (isinstance(answers, str) and answers not in NAMED_ANSWERS):
            raise ValueError(
                f"preferred_answers: {answers!r} is not allowed; give {' or '.join(NAMED_ANSWERS)}, or a list of texts"
            )
