"""Controls on a suite's pictures: other pictures, or none, beside the same questions. Files: configs/image_controls/*.yaml."""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from safemirage.config.attack import check_one_suite
from safemirage.config.types import Count, Strict, check_name, data_path, not_identity
from safemirage.config.vlguard import VLGuardConfig

ImageControl = Literal["blank", "noise", "swapped_same", "swapped_other", "edge_other", "no_image"]
CONTROLS: tuple[ImageControl, ...] = (
    "blank",
    "noise",
    "swapped_same",
    "swapped_other",
    "edge_other",
    "no_image",
)


@dataclass(frozen=True, kw_only=True)
class ImageControlsConfig(Strict):
    name: str = not_identity("image_controls")
    """The new suite's name."""
    suite: str | None = data_path(None)
    """Folder with suite.json and its images; or give `vlguard`."""
    vlguard: VLGuardConfig | None = None
    """VLGuard's own files as the suite."""
    conditions: tuple[str, ...] = ()
    """The conditions whose pictures are changed. Empty: the plain ones."""
    controls: Annotated[tuple[ImageControl, ...], Field(min_length=1)] = CONTROLS
    """What is shown in place of the right picture. `blank`: grey of the same size; `noise`: random colours of the same
    size; `swapped_same` and `swapped_other`: the picture of another sample, with the same label or another one;
    `edge_other`: the right picture within the edge of one with another label, so that what it shows stays; `no_image`: the question alone."""
    label: str = "subset"
    """What tells labels apart for swaps: `subset` (safe, unsafe), or a key of the samples' targets, such as `category` or
    `kind`."""
    sample: Count | None = None
    """Draw this many questions of each condition. None: all."""
    seed: int = 0
    """Seed of that draw, of the noise and of the swaps."""

    def __post_init__(self) -> None:
        check_name(self.name)
        check_one_suite(self.suite, self.vlguard)
        for name, values in (("controls", self.controls), ("conditions", self.conditions)):
            if len(set(values)) < len(values):
                raise ValueError(f"{name}: {list(values)} holds one twice")
