"""The models that answer, each with its engine, and how answers are decoded."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, JsonValue

from safemirage.config.model import Presets
from safemirage.config.types import Count, Positive, Strict, input_path, not_identity
from safemirage.config.weights import WeightsConfig

_SECRET_HEADERS = frozenset(
    {"authorization", "proxy-authorization", "cookie", "api-key", "x-api-key"}
)
_OWN_FIELDS = frozenset(
    {
        "model", "messages", "max_tokens", "max_completion_tokens", "temperature", "top_p", "seed", "n", "stream",
        "continue_final_message", "add_generation_prompt", "response_format", "logprobs", "top_logprobs",
    }
)  # fmt: skip
"""Fields of a request's body that follow from the question and `decoding`, and so are part of the sample store's keys."""


@dataclass(frozen=True, kw_only=True)
class DecodingConfig(Strict):
    """How an answer is drawn; part of the sample store's keys. Temperature 0 is greedy."""

    max_new_tokens: Count = 256
    """Tokens after which an answer is cut off."""
    temperature: Annotated[float, Field(ge=0)] = 0.0
    """0 always takes the most likely token (greedy)."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Tokens are drawn from the most likely ones that together have this probability; 1 leaves none out."""
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
    """The model's name on that server."""
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
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = not_identity("max_tokens")
    """What the server calls the greatest number of new tokens; OpenAI's reasoning models take the second name alone."""
    system_role: Literal["system", "developer", "user"] = "system"
    """The role that a system message is sent in. `user`: for servers and chat templates that know no such role; it then
    opens the first user message."""
    send_temperature: bool = True
    """Whether `temperature`, `top_p` and `seed` are sent. Some reasoning models refuse every value but their own; their
    answers then differ from call to call."""
    response_format: Literal["json_schema", "json_object", "none"] = "json_schema"
    """How the server is asked to keep to JSON where a judge needs it: to its schema, to JSON at all, or not. Verdicts are
    read as strictly in each case."""
    reasoning_tokens: Annotated[int, Field(ge=0)] = 0
    """Tokens that a reasoning model may spend before each answer, beside the answer's own `max_new_tokens`: servers count
    both together. How hard it reasons is a field of the server's, such as `extra_body: {reasoning_effort: low}` or
    `{chat_template_kwargs: {enable_thinking: false}}`."""
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
    """An export, a folder in the hub's layout, or a hub id."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Number format of the weights."""
    device: str = "cpu"
    """The device that computes: cpu, cuda or cuda:<index>."""
    rows: Count = 32
    """Answers in the making at a time; each holds keys and values of its prompt and answer in memory."""
    presets: Presets = field(default_factory=Presets)
    """What replaces a part of the model's processor. The original asks with `template: llava_v1` and
    `image_preprocessing: crop`, whatever the model was trained in."""
    weights: WeightsConfig = field(default_factory=WeightsConfig)
    """What is done to the weights first: an adapter scaled or switched off, quantisation. See docs/guides/probes.md."""


@dataclass(frozen=True, kw_only=True)
class VLLMConfig(Strict):
    """The model of an export or a hub id, run in this process by vLLM."""

    name: Literal["vllm"] = "vllm"
    path: str = input_path()
    """An export, a folder in the hub's layout, or a hub id."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Number format of the weights."""
    gpu_memory: Annotated[float, Field(gt=0, le=1)] = field(
        default=0.9, metadata={"identity": False}
    )
    """Share of the GPU's memory that the engine takes; less where a judge shares the GPU."""
    presets: Presets = field(default_factory=Presets)
    """Chat template and image preprocessing, as for the engine `transformers`."""


FolderModelConfig = TransformersConfig | VLLMConfig
"""Engines that load a model from a folder."""
GeneratorConfig = Annotated[
    OpenAIConfig | TransformersConfig | VLLMConfig, Field(discriminator="name")
]
