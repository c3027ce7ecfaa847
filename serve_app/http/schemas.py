"""The bodies of our own requests, as pydantic models (`openai.py`: OpenAI's). Unknown keys are refused: a typo must not change a result in silence."""

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Annotated, Any, ClassVar, Literal, Self

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

Text = Annotated[str, Field(min_length=1)]
Identifier = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,199}$")]
"""Names of models, suites, judges and runs. They become file names, so they hold no slash and no leading dot."""


class Body(BaseModel):
    # The texts below the fields are their descriptions in the OpenAPI schema.
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    NEUTRAL: ClassVar[Mapping[str, Sequence[Any]]] = {}
    """Fields that are known and not supported -> the values at which they change nothing, null apart."""

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
