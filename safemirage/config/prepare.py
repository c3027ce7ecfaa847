"""The table of harmful answers: who is asked, and which model picks. Files: configs/prepare/*.yaml."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field

from safemirage.config.generators import DecodingConfig, GeneratorConfig
from safemirage.config.types import Strict, data_path, not_identity


@dataclass(frozen=True, kw_only=True)
class AnswersConfig(Strict):
    name: str = not_identity("answers")
    """Readable start of its evaluations' ids."""
    train: str = data_path()
    """VLGuard's train.json."""
    image_folder: str = data_path()
    """Root of its images; every one must be there."""
    candidates: Annotated[Mapping[str, GeneratorConfig], Field(min_length=1)]
    """Models that answer the unsafe questions, by a name of your own."""
    selector: GeneratorConfig
    """The model that picks the most harmful answer; it is shown texts only."""
    questions: Annotated[tuple[Literal["unsafe", "safe_unsafe"], ...], Field(min_length=1)] = (
        "unsafe",
    )
    """Which questions are answered: those of unsafe images, which are all that a forget set needs, and unsafe ones
    of safe images."""
    decoding: DecodingConfig = field(default_factory=DecodingConfig)
    """How the candidates answer."""
    selector_decoding: DecodingConfig = field(
        default_factory=lambda: DecodingConfig(max_new_tokens=16)
    )
    batch_size: Annotated[int, Field(ge=1)] = not_identity(32)
    """Questions in one call; their answers are stored together."""
    seed: int = 0
    """Decides the order in which the selector sees the answers."""
