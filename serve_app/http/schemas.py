"""The bodies of requests, as pydantic models. Unknown keys are refused: a typo must not change a result in silence."""

from itertools import chain
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from safemirage.config.generators import DecodingConfig
from safemirage.evaluation.types import Subset

Zero = Annotated[float, Field(ge=0, le=0)]
Text = Annotated[str, Field(min_length=1)]
Identifier = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,199}$")]
"""Names of models, suites, judges and runs. They become file names, so they hold no slash and no leading dot."""


class Body(BaseModel):
    # The texts below the fields are their descriptions in the OpenAPI schema.
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    @field_validator("*")
    @classmethod
    def _whole_characters(cls, value: Any) -> Any:
        """JSON can spell half of a character (`\\ud800`), which no tokenizer, database or answer can hold."""
        texts = value.items() if isinstance(value, dict) else [(value,)]
        try:
            for text in chain.from_iterable(texts):
                if isinstance(text, str):
                    text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"holds half of a character at place {error.start}; send text that is Unicode"
            ) from error
        return value


class TextPart(Body):
    type: Literal["text"]
    text: str


class ImageUrl(Body):
    url: Text
    detail: Literal["auto", "low", "high"] = "auto"
    """Accepted for clients that send it; every image is read at the model's own resolution."""


class ImagePart(Body):
    type: Literal["image_url"]
    image_url: ImageUrl


Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]


class Message(Body):
    role: Literal["system", "developer", "user", "assistant"]
    content: str | Annotated[list[Part], Field(max_length=64, fail_fast=True)]
    name: str | None = None


class StreamOptions(Body):
    include_usage: bool = False
    include_obfuscation: bool = False


class ChatBody(Body):
    """OpenAI's request. What is not supported is accepted at its neutral value only, and refused otherwise."""

    model: Identifier
    messages: Annotated[list[Message], Field(min_length=1, max_length=8)]
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    """The newer name of `max_tokens`; it wins where both are given."""
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    """OpenAI's default, 1; evaluations are greedy instead."""
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    """The same seed, model and question give the same answer. Without one, answers are drawn anew."""
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    n: Literal[1] | None = 1
    continue_final_message: bool = False
    """The last message is the start of the answer, put into the model's mouth (as in vLLM)."""
    add_generation_prompt: bool = True
    frequency_penalty: Zero | None = None
    presence_penalty: Zero | None = None
    logprobs: Literal[False] | None = None
    stop: Annotated[list[str], Field(max_length=0)] | None = None
    user: str | None = None
    metadata: dict[str, str] | None = None
    store: Literal[False] | None = None


class JudgementItem(Body):
    """A question and the answer to judge."""

    question: str
    """The question that was asked."""
    answer: str
    """The answer to label."""
    image: str | None = None
    """The image as a data URI."""
    target: dict[str, str] = {}
    """What the image shows, for judges that read it (`oracle`)."""
    subset: Subset = "unsafe"
    """Whether the question is a `safe` or an `unsafe` one."""


ItemTree = Annotated[Any, WithJsonSchema({"$ref": "#/components/schemas/JudgementItem"})]


class JudgementsBody(Body):
    """Answers for one judge."""

    judge: Identifier
    """The judge's name, as `/v1/models` lists it."""
    items: Annotated[list[ItemTree], Field(min_length=1)]
    """`JudgementItem`s, each checked by itself: one that is wrong does not fail the others."""


class SampleBody(Body):
    """A sample sent inline; the fields of a suite's sample, with its image as data URI."""

    sample_id: Text
    """Tells this sample from the others of its evaluation."""
    condition: Text
    """The way of asking that its rate is counted under, such as `unsafe_plain`."""
    subset: Subset
    """Whether the question is a `safe` or an `unsafe` one."""
    attack: str = "plain"
    """How the question was changed; `plain`: not at all."""
    group_id: str | None = None
    """Default: the sample id, so that every sample is a question of its own."""
    question: str
    """The question."""
    image: str | None = None
    """The image as a data URI."""
    target: dict[str, str] = {}
    """What the image shows, for judges that read it (`oracle`, `useful`)."""


SampleTree = Annotated[Any, WithJsonSchema({"$ref": "#/components/schemas/SampleBody"})]


class DecodingBody(Body):
    """How answers are drawn."""

    max_new_tokens: Annotated[int, Field(ge=1)] | None = None
    """Tokens after which an answer is cut off; default: the service's own."""
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.0
    """0 always takes the most likely token (greedy)."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Tokens are drawn from the most likely ones that together have this probability."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Seed of the draw, where the temperature is above 0."""

    def config(self, default_new_tokens: int) -> DecodingConfig:
        return DecodingConfig(
            max_new_tokens=self.max_new_tokens or default_new_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            seed=self.seed,
        )


class EvaluationBody(Body):
    """An evaluation: a model, a suite or samples, and judges."""

    model: Identifier
    """The model's id, as `/v1/models` lists it."""
    suite: Identifier | None = None
    """A suite's name, as `/v1/suites` lists it; or give `samples`."""
    samples: Annotated[list[SampleTree], Field(min_length=1)] | None = None
    """`SampleBody`s, each checked by itself."""
    protocol: str = "corrected"
    """The rules of counting: `corrected`, or `paper` for the original's."""
    judges: Annotated[list[Identifier], Field(min_length=1)]
    """Names of judges. A rate that several measure is reported by the first of them."""
    sample: Annotated[int, Field(ge=1)] | None = None
    """Draw this many questions of each condition, by `seed`; their rewrites come along. Default: all."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Decides which questions `sample` draws."""
    decoding: DecodingBody = DecodingBody()

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.suite is None) == (self.samples is None):
            raise ValueError("give either suite or samples")
        if len(set(self.judges)) != len(self.judges):
            raise ValueError(f"judges: {self.judges!r} names one twice")
        return self
