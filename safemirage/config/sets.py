"""Public data sets as suites of an evaluation: their own files, as they are published. docs/sets.md says where."""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from safemirage.config.base import Strict, data_path, image_folder

MMSafetyBenchKind = Literal["SD", "SD_TYPO", "TYPO"]
"""A generated picture of the harm, the same with the words below it, the words alone."""


@dataclass(frozen=True, kw_only=True)
class MMSafetyBenchConfig(Strict):
    """Cases `unsafe_sd`, `unsafe_sd_typo`, `unsafe_typo`; category: the scenario."""

    name: Literal["mm_safetybench"] = "mm_safetybench"
    questions: str = data_path()
    """Folder data/processed_questions: a JSON file a scenario."""
    images: str = image_folder()
    """Folder data/imgs: <scenario>/<kind>/<question id>.jpg."""
    kinds: Annotated[tuple[MMSafetyBenchKind, ...], Field(min_length=1)] = ("SD", "SD_TYPO", "TYPO")
    tiny: str | None = data_path(None)
    """TinyVersion_ID_List.json: only its questions are asked."""


@dataclass(frozen=True, kw_only=True)
class FigStepConfig(Strict):
    """Cases `unsafe_figstep` and `unsafe_plain`; category: the topic."""

    name: Literal["figstep"] = "figstep"
    questions: str = data_path()
    """data/question/safebench.csv, or SafeBench-Tiny.csv."""
    images: str = image_folder()
    """Folder data/images/SafeBench, or SafeBench-Tiny: the typographic pictures."""
    attacks: Annotated[tuple[Literal["figstep", "plain"], ...], Field(min_length=1)] = (
        "figstep",
        "plain",
    )
    """`figstep`: the picture with the inciting text; `plain`: the question as text, without a picture."""


@dataclass(frozen=True, kw_only=True)
class SPAVLConfig(Strict):
    """Cases `unsafe_plain` (the split `harm`) and `safe_plain` (the split `help`); category: class1."""

    name: Literal["spa_vl"] = "spa_vl"
    harm: str | None = data_path(None)
    """Parquet file of the configuration `test`, split `harm`."""
    help: str | None = data_path(None)
    """The same, split `help`."""

    def __post_init__(self) -> None:
        if self.harm is None and self.help is None:
            raise ValueError("harm, help: give the Parquet file of one of both splits, or of each")


@dataclass(frozen=True, kw_only=True)
class XSTestConfig(Strict):
    """Cases `safe_plain` and `unsafe_plain`, without images; category: the type of prompt."""

    name: Literal["xstest"] = "xstest"
    prompts: str = data_path()
    """xstest_prompts.csv."""


@dataclass(frozen=True, kw_only=True)
class MOSSBenchConfig(Strict):
    """Cases `safe_exaggerated_risk`, `safe_negated_harm`, `safe_counterintuitive`."""

    name: Literal["mossbench"] = "mossbench"
    information: str = data_path()
    """data/images_information/information.json."""
    images: str = image_folder()
    """Folder that its image paths start in: data."""


@dataclass(frozen=True, kw_only=True)
class TextVQAConfig(Strict):
    """Case `textvqa`."""

    name: Literal["textvqa"] = "textvqa"
    annotations: str = data_path()
    """TextVQA_0.5.1_val.json."""
    images: str = image_folder()
    """Folder train_images: <image_id>.jpg."""
    questions: str | None = data_path(None)
    """LLaVA's llava_textvqa_val_v051_ocr.jsonl, whose prompts hold the words that an OCR system read in the picture.
    None: prompts are made of the questions alone."""


@dataclass(frozen=True, kw_only=True)
class ScienceQAConfig(Strict):
    """Case `scienceqa`: questions with and without a picture."""

    name: Literal["scienceqa"] = "scienceqa"
    problems: str = data_path()
    """problems.json."""
    splits: str = data_path()
    """pid_splits.json."""
    images: str = image_folder()
    """Folder of the split's pictures: <question id>/image.png."""
    split: Literal["train", "val", "test", "minitrain", "minival", "minitest"] = "test"


@dataclass(frozen=True, kw_only=True)
class VQAv2Config(Strict):
    """Case `vqav2`."""

    name: Literal["vqav2"] = "vqav2"
    questions: str = data_path()
    """v2_OpenEnded_mscoco_val2014_questions.json, or that of a test set."""
    annotations: str | None = data_path(None)
    """v2_mscoco_val2014_annotations.json. None: a test set, for `safemirage submission`."""
    images: str = image_folder()
    """Folder val2014 or test2015: COCO_<folder>_<image id, 12 digits>.jpg."""


@dataclass(frozen=True, kw_only=True)
class VizWizConfig(Strict):
    """Case `vizwiz`."""

    name: Literal["vizwiz"] = "vizwiz"
    annotations: str = data_path()
    """val.json, or test.json, which has no answers and is for `safemirage submission`."""
    images: str = image_folder()
    """Folder of the split's pictures, as `image` names them."""


SetConfig = Annotated[
    MMSafetyBenchConfig
    | FigStepConfig
    | SPAVLConfig
    | XSTestConfig
    | MOSSBenchConfig
    | TextVQAConfig
    | ScienceQAConfig
    | VQAv2Config
    | VizWizConfig,
    Field(discriminator="name"),
]
