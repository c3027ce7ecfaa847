"""The bodies of OpenAI's requests, as pydantic models.

A field that this service cannot act on is taken at its neutral value, which changes nothing, and refused at any other: an
answer that quietly ignores what was asked for would spoil a result.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from safemirage.evaluation.types import ChatOptions
from serve_app.http.errors import ApiError
from serve_app.http.schemas import Body, Identifier, ImagePart, Part, Text, TextPart

Seed = Annotated[int, Field(ge=-(2**63), lt=2**64)]
Temperature = Annotated[float, Field(ge=0, le=2)]
Probability = Annotated[float, Field(gt=0, le=1)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
Stop = Annotated[str, Field(min_length=1, max_length=1000)]
_COMMON: dict[str, Sequence[Any]] = {
    "background": [False],
    "functions": [[]],
    "function_call": ["none", "auto"],
    "logit_bias": [{}],
    "metadata": [{}],
    "modalities": [["text"]],
    "moderation": [],
    "parallel_tool_calls": [True, False],
    "prompt_cache_key": [],
    "prompt_cache_retention": [],
    "reasoning_effort": ["none"],
    "safety_identifier": [],
    "service_tier": ["auto", "default"],
    "store": [False],
    "tool_choice": ["none", "auto"],
    "tools": [[]],
    "verbosity": ["medium"],
}
_ANY_VALUE = frozenset(
    {"metadata", "prompt_cache_key", "prompt_cache_retention", "safety_identifier", "user"}
)
"""Fields about the request, which change no answer."""


def without_neutral(
    tree: Mapping[str, Any], neutral: Mapping[str, Sequence[Any]]
) -> dict[str, Any]:
    """The body without the fields that are neutral in it. Raises ApiError (400) in OpenAI's words for one that is not."""
    result = {}
    for name, value in tree.items():
        if name in _ANY_VALUE:
            continue
        if name not in neutral:
            result[name] = value
        elif value is not None and not any(
            type(value) is type(one) and value == one for one in neutral[name]
        ):
            allowed = ", ".join(map(json.dumps, [None, *neutral[name]]))
            raise ApiError(
                400,
                f"Unsupported parameter: '{name}' is not supported here; leave it out or send one of {allowed}.",
                param=name,
                code="unsupported_parameter",
            )
    return result


class JsonSchema(Body):
    name: str = "answer"
    description: str | None = None
    schema_: Annotated[dict[str, Any], Field(alias="schema", default_factory=dict)]
    strict: bool | None = None


class ResponseFormat(Body):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @property
    def schema_text(self) -> str | None:
        """The schema of what the answer must be, as JSON."""
        match self.type:
            case "text":
                return None
            case "json_object":
                return '{"type": "object"}'
            case "json_schema":
                return json.dumps(self.json_schema.schema_ if self.json_schema else {})

    @model_validator(mode="after")
    def _has_its_schema(self) -> Self:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise ValueError("json_schema goes with the type json_schema, and only with it")
        return self


class RefusalPart(Body):
    """What a client sends back of an earlier answer."""

    type: Literal["refusal"]
    refusal: str


class Message(Body):
    NEUTRAL: ClassVar[dict[str, Sequence[Any]]] = {
        "annotations": [[]],
        "audio": [],
        "function_call": [],
        "refusal": [],
        "tool_calls": [[]],
    }

    role: Literal["system", "developer", "user", "assistant"]
    content: (
        str
        | Annotated[
            list[Annotated[TextPart | ImagePart | RefusalPart, Field(discriminator="type")]],
            Field(max_length=64, fail_fast=True),
        ]
        | None
    ) = None
    name: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _as_clients_send_it_back(cls, tree: Any) -> Any:
        """An answer is sent back as it came: with fields that are empty."""
        if not isinstance(tree, dict):
            return tree
        return {
            name: value
            for name, value in tree.items()
            if not (name in cls.NEUTRAL and (value is None or value in cls.NEUTRAL[name]))
        }

    @property
    def parts(self) -> list[Part]:
        """Texts and images, in order."""
        if self.content is None or isinstance(self.content, str):
            return [TextPart(type="text", text=self.content or "")]
        return [
            TextPart(type="text", text=part.refusal) if isinstance(part, RefusalPart) else part
            for part in self.content
        ]


class StreamOptions(Body):
    include_usage: bool | None = False
    include_obfuscation: bool | None = False


def _listed(value: Any) -> Any:
    """One text as a list of it."""
    return [value] if isinstance(value, str) else value


class Sampling(Body):
    """What chat and completions have in common."""

    model: Identifier
    temperature: Temperature | None = None
    """OpenAI's default, 1; evaluations are greedy instead."""
    top_p: Probability | None = None
    seed: Seed | None = None
    """The same seed, model and question give the same answer. Without one, answers are drawn anew."""
    n: Annotated[int, Field(ge=1)] | None = 1
    stop: Annotated[list[Stop] | None, Field(max_length=4), BeforeValidator(_listed)] = None
    """At most four texts; the answer ends before the first of them."""
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None

    def options(self, top_logprobs: int | None) -> ChatOptions:
        return ChatOptions(
            stop=tuple(self.stop or ()),
            top_logprobs=top_logprobs,
            frequency_penalty=self.frequency_penalty or 0.0,
            presence_penalty=self.presence_penalty or 0.0,
        )


class ChatBody(Sampling):
    NEUTRAL: ClassVar[dict[str, Sequence[Any]]] = {
        **_COMMON,
        "audio": [],
        "prediction": [],
        "web_search_options": [],
    }

    messages: Annotated[list[Message], Field(min_length=1)]
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    """The newer name of `max_tokens`; it wins where both are given."""
    logprobs: bool | None = False
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    response_format: ResponseFormat | None = None
    continue_final_message: bool = False
    """The last message is the start of the answer, put into the model's mouth (as in vLLM). So is any last message of
    the assistant."""
    add_generation_prompt: bool = True

    @field_validator("top_logprobs")
    @classmethod
    def _with_logprobs(cls, value: int | None, info: Any) -> int | None:
        if value and not info.data.get("logprobs"):
            raise ValueError("needs logprobs=true")
        return value


class CompletionBody(Sampling):
    """The older request: a prompt, put to the model without its chat template."""

    NEUTRAL: ClassVar[dict[str, Sequence[Any]]] = {
        "best_of": [1],
        "echo": [False],
        "logit_bias": [{}],
        "suffix": [""],
    }

    prompt: str | Annotated[list[str], Field(min_length=1, fail_fast=True)]
    max_tokens: Annotated[int, Field(ge=1)] | None = 16
    logprobs: Annotated[int, Field(ge=0, le=5)] | None = None


class InputText(Body):
    type: Literal["input_text", "output_text"]
    text: str
    annotations: list[Any] | None = None
    logprobs: list[Any] | None = None


class InputImage(Body):
    type: Literal["input_image"]
    image_url: Text
    detail: Literal["auto", "low", "high"] = "auto"


class InputItem(Body):
    """A message of a conversation, as `/v1/responses` takes it."""

    type: Literal["message"] = "message"
    role: Literal["system", "developer", "user", "assistant"]
    content: (
        str
        | Annotated[
            list[Annotated[InputText | InputImage | RefusalPart, Field(discriminator="type")]],
            Field(max_length=64, fail_fast=True),
        ]
    )
    id: str | None = None
    status: str | None = None

    @property
    def parts(self) -> list[Part]:
        if isinstance(self.content, str):
            return [TextPart(type="text", text=self.content)]
        return [_part(part) for part in self.content]


class TextSettings(Body):
    format: dict[str, Any] | None = None
    verbosity: Literal["medium"] | None = None


class ResponsesBody(Body):
    NEUTRAL: ClassVar[dict[str, Sequence[Any]]] = {
        **_COMMON,
        "context_management": [],
        "conversation": [],
        "include": [[]],
        "max_tool_calls": [],
        "previous_response_id": [],
        "prompt": [],
        "reasoning": [{}],
        "stream_options": [{}, {"include_obfuscation": False}],
        "top_logprobs": [0],
        "truncation": ["disabled"],
    }

    model: Identifier
    input: str | Annotated[list[InputItem], Field(min_length=1)]
    instructions: str | None = None
    max_output_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Temperature | None = None
    top_p: Probability | None = None
    stream: bool | None = False
    text: TextSettings | None = None

    @property
    def schema_text(self) -> str | None:
        """The schema of what the answer must be, as JSON."""
        given = dict((self.text and self.text.format) or {"type": "text"})
        # The one difference to chat's `response_format`: name and schema stand beside the type.
        kind = given.pop("type", "text")
        tree = {"type": kind, "json_schema": given} if given else {"type": kind}
        return ResponseFormat.model_validate(tree).schema_text

    @field_validator("text")
    @classmethod
    def _readable(cls, value: TextSettings | None) -> TextSettings | None:
        if value is not None:
            _ = cls.model_construct(text=value).schema_text
        return value


class ModerationPart(Body):
    type: Literal["text", "image_url"]
    text: str | None = None
    image_url: dict[str, str] | None = None


class ModerationBody(Body):
    input: str | Annotated[list[str | ModerationPart], Field(min_length=1, fail_fast=True)]
    model: Identifier | None = None
    """The judge; default: the service's `moderation` judge."""


def _part(part: InputText | InputImage | RefusalPart) -> Part:
    match part:
        case InputText():
            return TextPart(type="text", text=part.text)
        case RefusalPart():
            return TextPart(type="text", text=part.refusal)
        case InputImage():
            url = {"url": part.image_url, "detail": part.detail}
            return ImagePart.model_validate({"type": "image_url", "image_url": url})
