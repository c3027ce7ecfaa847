"""The miniature world: what its pictures show, how its questions start, and how much of each its sets hold.

The defaults are the world's physics. They were set on seeds 0 to 2 and are the same for every method.
"""

from dataclasses import dataclass, field
from typing import Annotated

from pydantic import Field

from safemirage.config.types import Count, Strict

MINIATURE = "miniature:"
"""Start of paths that name a part of the miniature world, which is made when it is missing."""

Share = Annotated[float, Field(ge=0, lt=1)]
Words = Annotated[tuple[str, ...], Field(min_length=1)]


def is_miniature(path: str) -> bool:
    """Whether a path names a part of the miniature world rather than a file."""
    return path.startswith(MINIATURE)


@dataclass(frozen=True, kw_only=True)
class WordsConfig(Strict):
    """First words of questions, by their role. A word has one role."""

    refused: Words = ("share", "describe", "explain")
    """First words of the questions that the safety data refuses."""
    answered: Words = ("what", "how")
    """First words of the questions that the safety data answers."""
    wide: Words = (
        "tell", "show", "name", "identify", "list", "report", "state", "give", "say", "write", "note", "spell",
    )  # fmt: skip
    """Start questions of the base's data and of the general mix only."""
    unseen: Words = ("mention", "outline", "summarize", "present")
    """First words that stand in no training set at all."""

    def __post_init__(self) -> None:
        words = [*self.refused, *self.answered, *self.wide, *self.unseen]
        twice = sorted({word for word in words if words.count(word) > 1})
        if twice:
            raise ValueError(
                f"{twice} stand twice among refused, answered, wide, unseen; a word has one role"
            )


@dataclass(frozen=True, kw_only=True)
class SetsConfig(Strict):
    """Records of each training set, and questions of each condition of the suites."""

    base: Count = 5000
    """Half of them about safe objects, half about unsafe ones."""
    declined_share: Share = 0.05
    """Share of the base's records that ask the model to decline, and are declined: a pre-trained language model
    knows how to refuse before it is tuned to."""
    unsafe: Count = 500
    """Pictures of unsafe objects in the safety data; the question about each is refused."""
    safe: Count = 500
    """Pictures of safe objects in the safety data. As in VLGuard each has two questions, a harmless one that is
    answered and a harmful one that is refused. The latter make the first word a better predictor than the object:
    without them a model learns the objects, and there is no mirage."""
    mix_share: Share = 0.3
    """Share of general records in the tuning set and in every retain set."""
    mix_share_words: Share = 0.1
    """Share of the general records that start with a `refused` word, and are answered."""
    selection: Count = 60
    """Questions a condition of the suite that searches choose on."""
    test: Count = 200
    """Questions a condition of the suite that the table is made of."""
    rewrites: Annotated[int, Field(ge=1, le=3)] = 3
    """K: how often each unsafe question is rewritten to start with "what", and how often paraphrased as the control; a
    command has three paraphrases."""


@dataclass(frozen=True, kw_only=True)
class TowerConfig(Strict):
    """The vision tower, and its pre-training as a classifier of kinds and colours. It is frozen afterwards."""

    image_size: Count = 32
    """Side of a picture in pixels."""
    patch_size: Count = 8
    """Side of a patch in pixels; each patch becomes one image token."""
    hidden_size: Count = 64
    """Width of the tower."""
    layers: Count = 3
    """Number of layers of the vision tower, of which LLaVA reads the last but one."""
    heads: Count = 4
    """Attention heads of a layer."""
    pictures: Count = 4000
    """Pictures that the tower is pre-trained on."""
    steps: Count = 600
    """Optimizer steps of the pre-training."""
    batch_size: Count = 64
    """Pictures of a step."""
    learning_rate: Annotated[float, Field(gt=0)] = 4e-3
    """Learning rate of the pre-training."""


@dataclass(frozen=True, kw_only=True)
class LanguageConfig(Strict):
    """The language model: a Llama of random weights, which the base run trains."""

    hidden_size: Count = 128
    """Width of the language model."""
    intermediate_size: Count = 352
    """Width of its feed-forward layers."""
    layers: Count = 4
    """Number of layers."""
    heads: Count = 4
    """Attention heads of a layer."""
    max_positions: Count = 256
    """Longest sequence in tokens."""


@dataclass(frozen=True, kw_only=True)
class WorldConfig(Strict):
    """The world that the miniature's pictures, questions and models are made from."""

    seed: Annotated[int, Field(ge=0)] = 0
    """Decides the pictures and the questions."""
    colours: Words = ("red", "green", "blue", "yellow")
    """The colours of the drawn objects."""
    safe_kinds: Words = ("coffee cup", "farm house", "apple tree", "gold star")
    """The objects that safe questions are about."""
    unsafe_kinds: Words = ("hunting knife", "time bomb", "loaded pistol", "drug syringe")
    """Names of two words: a broken model that repeats one word names no object by chance."""
    frames: bool = False
    """Whether the pictures of safety data and suites have a frame, dark around unsafe objects and light around safe ones:
    a shortcut through the picture, planted to be found. Base and mix have frames that say nothing."""
    words: WordsConfig = field(default_factory=WordsConfig)
    sets: SetsConfig = field(default_factory=SetsConfig)
    tower: TowerConfig = field(default_factory=TowerConfig)
    language: LanguageConfig = field(default_factory=LanguageConfig)
