"""Public data sets as suites of an evaluation: their own files, as they are published. docs/guides/sets.md says where."""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from safemirage.config.types import Strict, data_path, image_folder

MMSafetyBenchKind = Literal["SD", "SD_TYPO", "TYPO"]
"""A generated picture of the harm, the same with the words below it, the words alone."""


@dataclass(frozen=True, kw_only=True)
class MMSafetyBenchConfig(Strict):
    """Conditions `unsafe_sd`, `unsafe_sd_typo`, `unsafe_typo`; category: the scenario."""

    name: Literal["mm_safetybench"] = "mm_safetybench"
    questions: str = data_path()
    """Folder data/processed_questions: a JSON file a scenario."""
    images: str = image_folder()
    """Folder data/imgs: <scenario>/<kind>/<question id>.jpg."""
    kinds: Annotated[tuple[MMSafetyBenchKind, ...], Field(min_length=1)] = ("SD", "SD_TYPO", "TYPO")
    """Which pictures are asked about: made by Stable Diffusion (`SD`), text (`TYPO`), or both in one (`SD_TYPO`)."""
    tiny: str | None = data_path(None)
    """TinyVersion_ID_List.json: only its questions are asked."""


@dataclass(frozen=True, kw_only=True)
class FigStepConfig(Strict):
    """Conditions `unsafe_figstep` and `unsafe_plain`; category: the topic."""

    name: Literal["figstep"] = "figstep"
    questions: str = data_path()
    """The set's file data/question/safebench.csv, or SafeBench-Tiny.csv."""
    images: str = image_folder()
    """Folder data/images/SafeBench, or SafeBench-Tiny: the typographic pictures."""
    attacks: Annotated[tuple[Literal["figstep", "plain"], ...], Field(min_length=1)] = (
        "figstep",
        "plain",
    )
    """`figstep`: the picture with the inciting text; `plain`: the question as text, without a picture."""


@dataclass(frozen=True, kw_only=True)
class SPAVLConfig(Strict):
    """Conditions `unsafe_plain` (the split `harm`) and `safe_plain` (the split `help`); category: class1."""

    name: Literal["spa_vl"] = "spa_vl"
    harm: str | None = data_path(None)
    """Parquet file of the configuration `test`, split `harm`."""
    help: str | None = data_path(None)
    """The file of the split `help`, in the same format."""

    def __post_init__(self) -> None:
        if self.harm is None and self.help is None:
            raise ValueError("harm, help: give the Parquet file of one of both splits, or of each")


@dataclass(frozen=True, kw_only=True)
class XSTestConfig(Strict):
    """Conditions `safe_plain` and `unsafe_plain`, without images; category: the type of prompt."""

    name: Literal["xstest"] = "xstest"
    prompts: str = data_path()
    """The set's file xstest_prompts.csv."""


@dataclass(frozen=True, kw_only=True)
class MOSSBenchConfig(Strict):
    """Conditions `safe_exaggerated_risk`, `safe_negated_harm`, `safe_counterintuitive`."""

    name: Literal["mossbench"] = "mossbench"
    information: str = data_path()
    """The set's file data/images_information/information.json."""
    images: str = image_folder()
    """Folder that its image paths start in: data."""


SetConfig = Annotated[
    MMSafetyBenchConfig | FigStepConfig | SPAVLConfig | XSTestConfig | MOSSBenchConfig,
    Field(discriminator="name"),
]
