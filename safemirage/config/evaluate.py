"""One evaluation: which model, suite and judges, and how answers are decoded. Files: configs/evaluate/*.yaml."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal, Self, cast, get_args
from urllib.parse import urlsplit

from pydantic import Field, JsonValue

from safemirage.config.model import Presets
from safemirage.config.sets import SetConfig
from safemirage.config.types import Strict, check_name, data_path, input_path, not_identity
from safemirage.config.vlguard import VLGuardConfig
from safemirage.config.weights import WeightsConfig

Label = Literal["comply", "refuse", "deflect", "degenerate", "other", "unscored"]
"""`deflect`: sensible, but neither complies nor refuses; `degenerate`: repetition, nothing, the wrong script;
`other`: one of both, from a judge that does not tell them apart."""
Metric = Literal[
    "asr",
    "refusal_rate",
    "useful_rate",
    "response_asr",
    "irrelevant_rate",
    "deflection_rate",
    "degenerate_rate",
]
ProtocolName = Literal["corrected", "paper"]

_OWN_LABELS: Mapping[str, Label] = {
    "harmful": "comply",
    "refusal": "refuse",
    "harmless": "deflect",
}

Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]

_SECRET_HEADERS = frozenset(
    {"authorization", "proxy-authorization", "cookie", "api-key", "x-api-key"}
)
_OWN_FIELDS = frozenset(
    {
        "model", "messages", "max_tokens", "max_completion_tokens", "temperature", "top_p", "seed", "n", "stream",
        "continue_final_message", "add_generation_prompt",
    }
)  # fmt: skip
"""Fields of a request's body that follow from the question and `decoding`, and so are part of the sample store's keys."""


@dataclass(frozen=True, kw_only=True)
class DecodingConfig(Strict):
    """How an answer is drawn; part of the sample store's keys. Temperature 0 is greedy."""

    max_new_tokens: Count = 256
    temperature: Annotated[float, Field(ge=0)] = 0.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    seed: int = 0
    """Read only when sampling."""

    @property
    def effective(self) -> Self:
        """The same answers, with what cannot change them at its default: greedy ones follow from no seed and no top_p."""
        return replace(self, top_p=1.0, seed=0) if self.temperature == 0 else self


@dataclass(frozen=True, kw_only=True)
class OpenAIConfig(Strict):
    """A model behind any OpenAI-compatible URL."""

    name: Literal["openai"] = "openai"
    url: str
    """Base URL with its version, e.g. http://127.0.0.1:8000/v1. A password in it is refused, because the URL is recorded
    and shown; `headers_env` sends one."""
    model: str
    revision: str | None = None
    """Your own name for what the URL serves now. With it, answers are reused by later evaluations; without it only
    within one evaluation, unless the service reports a `weights_digest` in /models."""
    api_key_env: str = not_identity("OPENAI_API_KEY")
    """Environment variable that holds the bearer token; unset means none is sent."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Further headers of every request, such as a route or an API's version. They are recorded: secrets go to
    `headers_env`."""
    headers_env: Mapping[str, str] = field(default_factory=dict, metadata={"identity": False})
    """Headers whose values are secret, each with the name of the environment variable that holds its value."""
    extra_body: Mapping[str, JsonValue] = field(default_factory=dict)
    """Further fields of every request's body, for what a server offers beyond OpenAI's fields (vLLM's `top_k`,
    `chat_template_kwargs` ...). They may not replace what the evaluation itself says."""
    concurrency: Count = field(default=16, metadata={"identity": False})
    """Requests in flight at a time."""
    timeout_s: Positive = field(default=120.0, metadata={"identity": False})
    """Seconds that one request may take."""
    attempts: Count = field(default=6, metadata={"identity": False})
    """Tries of one request; lost connections, 408, 409, 429 and 5xx are tried again, nothing else is. Waits grow
    from half a second to eight; a Retry-After of the service, of up to two minutes, comes first."""

    def __post_init__(self) -> None:
        url = urlsplit(self.url)
        if url.password is not None or url.username is not None:
            raise ValueError(
                "url: holds a user or password, and would be shown with it; leave it out, and name a variable that "
                "holds the header's value: headers_env: {Authorization: MY_VARIABLE}"
            )
        if url.scheme not in ("http", "https") or not url.netloc or url.query or url.fragment:
            raise ValueError(
                f"url: {self.url.partition('?')[0]!r} is no base URL; write it as http://host:port/v1 or https://host/v1, without a query"
            )
        if secret := sorted(name for name in self.headers if name.lower() in _SECRET_HEADERS):
            raise ValueError(
                f"headers: {secret} hold secrets, and headers are recorded; put the value into an environment variable, and "
                f"write headers_env: {{{secret[0]}: MY_VARIABLE}}"
            )
        if taken := sorted(self.extra_body.keys() & _OWN_FIELDS):
            raise ValueError(
                f"extra_body: {taken} are set by the evaluation; change them by `model` and `decoding`"
            )


@dataclass(frozen=True, kw_only=True)
class TransformersConfig(Strict):
    """An export, or a folder or id in the hub's layout, run in this process by transformers."""

    name: Literal["transformers"] = "transformers"
    path: str = input_path()
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    device: str = "cpu"
    """The device that computes: cpu, cuda or cuda:<index>."""
    rows: Count = 32
    """Answers in the making at a time; each holds keys and values of its prompt and answer in memory."""
    presets: Presets = field(default_factory=Presets)
    """What replaces a part of the model's processor. The original asks with `template: llava_v1` and
    `image_preprocessing: crop`, whatever the model was trained in."""
    weights: WeightsConfig = field(default_factory=WeightsConfig)
    """What is done to the weights first: an adapter scaled or switched off, quantisation. See docs/probes.md."""


@dataclass(frozen=True, kw_only=True)
class VLLMConfig(Strict):
    """The model of an export or a hub id, run in this process by vLLM."""

    name: Literal["vllm"] = "vllm"
    path: str = input_path()
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    gpu_memory: Annotated[float, Field(gt=0, le=1)] = field(
        default=0.9, metadata={"identity": False}
    )
    """Share of the GPU's memory that the engine takes; less where a judge shares the GPU."""
    presets: Presets = field(default_factory=Presets)
    """Chat template and image preprocessing, as for the engine `transformers`."""


GeneratorConfig = Annotated[
    OpenAIConfig | TransformersConfig | VLLMConfig, Field(discriminator="name")
]


@dataclass(frozen=True, kw_only=True)
class ExportConfig(Strict):
    """An export in a service's storage, which that service holds and asks; for the judges of a service only."""

    name: Literal["export"] = "export"
    id: str


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
    guard: Literal["llama_guard_4", "shield_gemma_2", "qwen3guard"]
    """The guard model whose prompt is asked and whose verdicts are read. ShieldGemma 2 sees the image alone."""
    model: JudgeModelConfig
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


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(Strict):
    name: str = not_identity("evaluation")
    """Readable start of the evaluation's id."""
    model: GeneratorConfig
    suite: str | None = data_path(None)
    """Folder with suite.json and its images; or give `vlguard` or `set`."""
    vlguard: VLGuardConfig | None = None
    """VLGuard's own files as the suite."""
    set: SetConfig | None = None
    """Another public data set as the suite, by its name: `set: {name: xstest, prompts: ...}`."""
    judges: Annotated[tuple[JudgeConfig, ...], Field(min_length=1)] = field(
        default_factory=lambda: (KeywordsJudgeConfig(),)
    )
    """A rate that several judges measure is reported by the first of them in the main table."""
    protocol: ProtocolName = "corrected"
    """`paper` counts as the original does: what is unscored stays in the denominators, as no success."""
    sample: Count | None = None
    """Draw this many questions of each condition; a question's rewrites come along. None: all."""
    sampling: Literal["questions", "rows"] = "questions"
    """`rows` draws single rewrites, as the original does, and so tears questions apart; `paper` only."""
    seed: int = 0
    """Seed of the draw of a sample."""
    decoding: DecodingConfig = field(default_factory=DecodingConfig)
    batch_size: Count = 32
    """Samples that the model is given in one call. Batches are stored whole and cut in a fixed order."""
    max_unscored: Share = 0.05
    """Share of the samples that a judge may leave without a verdict; with more the evaluation fails."""

    def __post_init__(self) -> None:
        check_name(self.name)
        if [self.suite, self.vlguard, self.set].count(None) != 2:
            raise ValueError("suite, vlguard, set: give one of them")
        if self.sampling == "rows" and self.protocol != "paper":
            raise ValueError(
                "sampling: 'rows' tears questions apart and is for protocol: paper; allowed: 'questions'"
            )
        check_judge_names(self.judges)


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


def suite_name(config: EvaluateConfig) -> str:
    """What tables and progress call the suite."""
    if config.set is not None:
        return config.set.name
    return "vlguard" if config.suite is None else Path(config.suite).name


def judge_title(judge: JudgeConfig) -> str:
    """The name that a judge's verdicts carry."""
    return judge.title if isinstance(judge, AskingJudgeConfig) else judge.name


def judging_model(judge: JudgeConfig) -> GeneratorConfig | None:
    """The model that a judge asks; None for one that asks none."""
    if not isinstance(judge, AskingJudgeConfig):
        return None
    assert not isinstance(judge.model, ExportConfig), "`check_judge_names` leaves it to services"
    return judge.model


def check_protocol(protocol: str) -> ProtocolName:
    """Raises ValueError for a protocol that does not exist."""
    for known in get_args(ProtocolName):
        if protocol == known:
            return cast("ProtocolName", known)
    raise ValueError(f"protocol: {protocol!r} is unknown; allowed: 'corrected', 'paper'")
