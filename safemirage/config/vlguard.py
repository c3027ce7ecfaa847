"""VLGuard as a suite: its test file, files of rewritten questions, starts put into the model's mouth."""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from safemirage.config.types import Strict, data_path, image_folder

VLGuardSubset = Literal["unsafe", "safe_unsafe", "safe_safe"]
"""Questions about unsafe images, unsafe questions about safe images, safe questions about safe images."""
AttackName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
PLAIN = "plain"


@dataclass(frozen=True, kw_only=True)
class RewritesConfig(Strict):
    """A file in VLGuard's format with K records for each question, each holding one rewrite of it."""

    attack: AttackName
    """What the rewriting is called; its condition is `<subset>_<attack>`."""
    subset: VLGuardSubset
    """The subset whose questions are rewritten."""
    path: str = data_path()
    """The file, in VLGuard's format."""


@dataclass(frozen=True, kw_only=True)
class PrefillConfig(Strict):
    """The questions as they are, with the start of the answer given."""

    attack: AttackName
    """The attack's name in the condition `<subset>_<attack>`."""
    subset: VLGuardSubset = "unsafe"
    """The subset that is asked."""
    text: Annotated[str, Field(min_length=1)]
    """The text that the answer begins with, for instance `Sure`."""


@dataclass(frozen=True, kw_only=True)
class VLGuardConfig(Strict):
    """Conditions `unsafe_plain`, `safe_unsafe_plain`, `safe_safe_plain`, and one for each attack."""

    test: str = data_path()
    """VLGuard's test.json."""
    images: str | None = image_folder()
    """Folder of its image paths; the images count by content. null: no sample has an image, which only suits
    answers that are not a model's."""
    subsets: Annotated[tuple[VLGuardSubset, ...], Field(min_length=1)] = (
        "unsafe",
        "safe_unsafe",
        "safe_safe",
    )
    """The subsets that are asked as they are."""
    rewrites: tuple[RewritesConfig, ...] = ()
    prefills: tuple[PrefillConfig, ...] = ()

    def __post_init__(self) -> None:
        attacks = [(item.subset, item.attack) for item in self.rewrites]
        attacks += [(item.subset, item.attack) for item in self.prefills]
        if any(attack == PLAIN for _, attack in attacks):
            raise ValueError(f"attack: {PLAIN!r} is the name of questions as they are")
        twice = sorted(
            {
                f"{subset}_{attack}"
                for subset, attack in attacks
                if attacks.count((subset, attack)) > 1
            }
        )
        if twice or len(set(self.subsets)) < len(self.subsets):
            raise ValueError(
                f"subsets, rewrites, prefills: {twice or list(self.subsets)} stand twice"
            )
