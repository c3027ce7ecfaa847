"""The judges of an evaluation, and the models that some of them ask."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal, get_args

from pydantic import Field

from safemirage.config.generators import (
    DecodingConfig,
    GeneratorConfig,
    OpenAIConfig,
    TransformersConfig,
    VLLMConfig,
)
from safemirage.config.rates import Label, Metric
from safemirage.config.types import Share, Strict, data_path

_OWN_LABELS: Mapping[str, Label] = {
    "harmful": "comply",
    "refusal": "refuse",
    "harmless": "deflect",
}


@dataclass(frozen=True, kw_only=True)
class ExportConfig(Strict):
    """An export in a service's storage, which that service holds and asks; for the judges of a service only."""

    name: Literal["export"] = "export"
    id: str
    """The export's id, as `safemirage list exports` shows it."""


JudgeModelConfig = Annotated[
    OpenAIConfig | TransformersConfig | VLLMConfig | ExportConfig, Field(discriminator="name")
]


@dataclass(frozen=True, kw_only=True)
class KeywordsJudgeConfig(Strict):
    """VLGuard's refusal keywords."""

    name: Literal["keywords"] = "keywords"


@dataclass(frozen=True, kw_only=True)
class RefusalRulesJudgeConfig(Strict):
    """Rules for refusals, chosen on VLGuard's training answers, and for degenerate answers."""

    name: Literal["refusal_rules"] = "refusal_rules"


@dataclass(frozen=True, kw_only=True)
class OracleJudgeConfig(Strict):
    """Reads what the image shows from the sample: does the answer name the object?"""

    name: Literal["oracle"] = "oracle"


@dataclass(frozen=True, kw_only=True)
class UsefulJudgeConfig(Strict):
    """Reads what the image shows from the sample: does the answer give the right kind and colour?"""

    name: Literal["useful"] = "useful"


@dataclass(frozen=True, kw_only=True)
class JudgePromptConfig(Strict):
    """What a model that judges is asked, and how its answer is read."""

    kind: Literal["json", "word"] = "json"
    """`json`: one object {"verdict": ..., "reason": ...} and nothing else, for instruction-tuned models.
    `word`: one of the labels and nothing else, for small models trained to judge."""
    system: str | None = None
    """The judge's system message; None: the one of its kind."""
    template: str | None = None
    """User message, with {question}, {answer} and {labels} in it; question and answer are put in as JSON strings, so
    that no answer can end its own quotation. None: the kind's own."""
    labels: Mapping[str, Label] = field(default_factory=lambda: dict(_OWN_LABELS))
    """The words that the judge may answer with, and the label that each stands for."""
    measures: tuple[Metric, ...] = ("asr", "refusal_rate")
    """The rates that its verdicts are counted in."""
    with_image: bool = True
    """Whether the judge sees the image."""
    reasons: Share = 0.05
    """Share of its verdicts that a model in this process (`transformers`, `vllm`) explains, where the verdict is JSON: a
    verdict is one forward pass, its reason tens. 1.0: it writes verdict and reason each time, as a model behind a URL
    always does."""
    decoding: DecodingConfig = field(default_factory=lambda: DecodingConfig(max_new_tokens=200))

    def __post_init__(self) -> None:
        if not self.labels:
            raise ValueError("labels: is empty; name the words that the judge may answer with")
        if "unscored" in self.labels.values():
            raise ValueError(
                "labels: 'unscored' is not a verdict; a judge that cannot tell has no label"
            )
        folded = [word.strip().casefold() for word in self.labels]
        if "" in folded or len(set(folded)) != len(folded):
            raise ValueError(
                f"labels: the words {list(self.labels)} must differ, whatever their case"
            )
        if self.kind == "json" and self.system is None and set(self.labels) != set(_OWN_LABELS):
            raise ValueError(
                f"system: the own one explains the labels {list(_OWN_LABELS)}; write one for {list(self.labels)}"
            )
        if self.template is not None and "{answer}" not in self.template:
            raise ValueError("template: has no {answer}, so the judge would not see what it judges")


@dataclass(frozen=True, kw_only=True)
class ModelJudgeConfig(Strict):
    """A model that is asked for its verdict."""

    name: Literal["model"] = "model"
    title: str = "model"
    """The judge's name in tables and verdicts."""
    model: JudgeModelConfig
    prompt: JudgePromptConfig = field(default_factory=JudgePromptConfig)


@dataclass(frozen=True, kw_only=True)
class UsefulnessJudgeConfig(Strict):
    """A model that is asked whether an answer is of use to who asked; for safe questions."""

    name: Literal["usefulness"] = "usefulness"
    title: str = "usefulness"
    """The judge's name in tables and verdicts."""
    model: JudgeModelConfig
    decoding: DecodingConfig = field(default_factory=lambda: DecodingConfig(max_new_tokens=200))


@dataclass(frozen=True, kw_only=True)
class RelevanceJudgeConfig(Strict):
    """The original's judge: keywords, lists of words, then a model that is asked whether an answer is relevant."""

    name: Literal["relevance"] = "relevance"
    title: str = "relevance"
    """The judge's name in tables."""
    model: JudgeModelConfig
    normal_prompt: str | None = data_path(None)
    """Text file with the system message for questions as they are; for instance the original's. None: our words.
    A line break at the file's end is left out, here and below."""
    attempts_prompt: str | None = data_path(None)
    """The file that takes the place of the one above for rewritten questions."""
    normal_message: str | None = data_path(None)
    """Text file with the user message for questions as they are; {question} and {answer} in it are filled in as they
    are. None: our words."""
    attempts_message: str | None = data_path(None)
    """The file that takes the place of the one above for rewritten questions."""
    decoding: DecodingConfig = field(default_factory=lambda: DecodingConfig(max_new_tokens=200))


@dataclass(frozen=True, kw_only=True)
class GuardJudgeConfig(Strict):
    """A guard model, which has its own prompt and its own form of verdict."""

    name: Literal["guard"] = "guard"
    title: str = "guard"
    """The judge's name in tables."""
    guard: Literal["llama_guard_4", "qwen3guard", "nemotron_content_safety"]
    """The guard model whose prompt is asked and whose verdicts are read."""
    model: JudgeModelConfig
    score: bool = True
    """Whether the server is asked for the probability of the guard's word, which is kept beside each verdict."""
    decoding: DecodingConfig = field(default_factory=lambda: DecodingConfig(max_new_tokens=64))

    def __post_init__(self) -> None:
        if not isinstance(self.model, OpenAIConfig):
            raise ValueError(
                f"model: name {self.model.name!r} knows no guard's chat template; serve the guard (vllm serve ...) "
                "and give name: openai"
            )


BuiltInJudgeConfig = (
    KeywordsJudgeConfig | RefusalRulesJudgeConfig | OracleJudgeConfig | UsefulJudgeConfig
)
"""Judges that need no model: their names are all that they take."""
AskingJudgeConfig = (
    ModelJudgeConfig | UsefulnessJudgeConfig | RelevanceJudgeConfig | GuardJudgeConfig
)
"""Judges that ask a model."""
JudgeConfig = Annotated[BuiltInJudgeConfig | AskingJudgeConfig, Field(discriminator="name")]
BUILT_IN_JUDGES: Mapping[str, type[BuiltInJudgeConfig]] = {
    kind.name: kind for kind in get_args(BuiltInJudgeConfig)
}
ASKING_JUDGES: tuple[str, ...] = tuple(kind.name for kind in get_args(AskingJudgeConfig))


def check_judge_names(judges: Sequence[JudgeConfig]) -> None:
    """Raises ValueError where two judges have one name, or one asks what only a service can."""
    for judge in judges:
        if isinstance(judge, AskingJudgeConfig) and isinstance(judge.model, ExportConfig):
            raise ValueError(
                f"judges: {judge_title(judge)!r} asks an export by its id, which a service does; here give "
                "model.name transformers or vllm and the export's path, or openai and a URL"
            )
    names = [judge_title(judge) for judge in judges]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"judges: the names {twice} stand twice; every judge needs its own")


def judge_title(judge: JudgeConfig) -> str:
    """The name that a judge's verdicts carry."""
    return judge.title if isinstance(judge, AskingJudgeConfig) else judge.name


def judging_model(judge: JudgeConfig) -> GeneratorConfig | None:
    """The model that a judge asks; None for one that asks none."""
    if not isinstance(judge, AskingJudgeConfig):
        return None
    assert not isinstance(judge.model, ExportConfig), "`check_judge_names` leaves it to services"
    return judge.model
