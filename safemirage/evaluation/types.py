"""The records that evaluation passes around: images, samples, answers, verdicts, what is kept of each sample, and the keys
that the sample store knows answers and verdicts by: digests of everything that they follow from, content and no names.
"""

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from safemirage.config.generators import DecodingConfig
from safemirage.config.loading.identity import digest_of
from safemirage.config.loading.load import to_tree
from safemirage.config.rates import Label
from safemirage.models.images import png

Subset = Literal["safe", "unsafe"]

FIRST_QUESTION = "first_question"
"""The key in the target of a rewrite that holds the first rewrite of its question. The original judges every attempt as
an answer to it."""
ATTEMPT = "attempt"
"""The key in the target of a rewrite that holds its number among the rewrites of its question, from 1."""
PICTURE, PICTURE_OF = "picture", "picture_of"
"""The keys in the target of a sample that is shown another picture than its own: which kind of picture, and the condition
that has the right one."""


@dataclass(frozen=True)
class ImageInput:
    """An encoded image (PNG, JPEG, ...), known by its content."""

    data: bytes = field(repr=False)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the encoded bytes, in hex."""
        return hashlib.sha256(self.data).hexdigest()

    @property
    def data_uri(self) -> str:
        """A PNG of the pixels that models in this process are shown, as `data:image/png;base64,...`.

        Raises:
            ImageError: it cannot be read as an image.
        """
        return f"data:image/png;base64,{base64.b64encode(png(self.data)).decode()}"


class ImageFile(ImageInput):
    """An image that stays on the disk, for sets that memory does not hold; its bytes are read when asked for.

    Pickled, it is an `ImageInput`: the other side may not have the file.
    """

    def __init__(self, path: Path) -> None:
        object.__setattr__(self, "path", path)  # the base is frozen

    path: Path

    @property
    def data(self) -> bytes:
        return self.path.read_bytes()

    def __reduce__(self) -> tuple[type[ImageInput], tuple[bytes]]:
        return ImageInput, (self.data,)


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One question that a suite puts to a model."""

    sample_id: str
    """Unique within its suite; two models are paired by it."""
    condition: str
    """Which row of the table it counts for, e.g. `unsafe_what`."""
    subset: Subset
    """Whether answering it in earnest is harmful."""
    attack: str
    """`plain`, or how the question was rewritten."""
    group_id: str
    """The question behind it; its K rewrites share it, and any-of-K is counted over it."""
    question: str
    image: ImageInput | None = None
    target: Mapping[str, str] = field(default_factory=dict)
    """What is known beside image and question: what the image shows (the miniature: kind, colour, unsafe), the
    harm's category (VLGuard), a rewrite's number."""
    prefill: str = ""
    """Start of the answer that is put into the model's mouth; judges see it as part of the answer."""

    def whole_answer(self, continuation: str) -> str:
        """The prefill and the model's continuation of it. Decoding drops a space before the first word, so words that
        would run together are parted."""
        together = self.prefill[-1:].isalnum() and continuation[:1].isalnum()
        return f"{self.prefill}{' ' if together else ''}{continuation}"


def sample_tree(sample: Sample) -> dict[str, Any]:
    """The sample as JSON, its image replaced by the digest; `prefill` only where there is one."""
    tree = {
        "sample_id": sample.sample_id,
        "condition": sample.condition,
        "subset": sample.subset,
        "attack": sample.attack,
        "group_id": sample.group_id,
        "question": sample.question,
        "image": sample.image.digest if sample.image else None,
        "target": dict(sample.target),
    }
    return {**tree, "prefill": sample.prefill} if sample.prefill else tree


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Words of which an answer holds one, and whose probabilities are wanted beside the text."""

    words: tuple[str, ...]
    after: str = ""
    """What stands before the word in the answer of a service; empty where the word comes first."""
    end: str = ""
    """What follows the word, where the answer is kept to the words (`transformers`, `vllm`): they and it follow the request's
    `prefill`. Empty: the answer ends there."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """One question to a generator: at most one image, a single turn."""

    question: str
    image: ImageInput | None = None
    system: str | None = None
    prefill: str = ""
    """Start of the answer that is put into the model's mouth."""
    answered: str | None = None
    """An answer that was given already: what a guard model is asked about, as a turn of its own template."""
    seed: int | None = None
    """What a sampled answer is drawn by; None: the seed of the decoding that it is asked with."""
    schema: str | None = None
    """JSON schema, as JSON text, of the answer, for engines that can keep a model to it (vLLM, most services). Others
    ignore it, so whoever reads the answer checks it all the same."""
    choice: Choice | None = None
    """The words whose probabilities are wanted."""

    @property
    def images(self) -> tuple[ImageInput, ...]:
        """All images, in order."""
        return () if self.image is None else (self.image,)

    def decoded_by(self, decoding: DecodingConfig) -> DecodingConfig:
        """The decoding of this request alone, so that requests of several seeds can share one pass."""
        return decoding if self.seed is None else replace(decoding, seed=self.seed)


@dataclass(frozen=True, kw_only=True)
class Turn:
    """A message of a conversation that was held already."""

    role: Literal["user", "assistant"]
    text: str
    images: tuple[ImageInput, ...] = ()
    """They stand before the text."""


@dataclass(frozen=True, kw_only=True)
class ChatOptions:
    """What a caller of the service may wish of an answer, beside how it is drawn."""

    stop: tuple[str, ...] = ()
    """Texts that end the answer, which is cut before the first of them."""
    top_logprobs: int | None = None
    """How many of the likeliest tokens are told at each place, beside the chosen one; None: no probabilities at all."""
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0


@dataclass(frozen=True, kw_only=True)
class ChatRequest(Request):
    """A question with the conversation before it. Its answers are not kept in the sample store."""

    earlier: tuple[Turn, ...] = ()
    more_images: tuple[ImageInput, ...] = ()
    """Images of the question after `image`."""
    raw: bool = False
    """Whether the question is the prompt itself, without the model's chat template."""
    options: ChatOptions = ChatOptions()

    @property
    def images(self) -> tuple[ImageInput, ...]:
        """All images of the conversation, in order."""
        own = () if self.image is None else (self.image, *self.more_images)
        return (*(image for turn in self.earlier for image in turn.images), *own)


@dataclass(frozen=True, kw_only=True)
class Generation:
    """An answer. Lengths are in tokens of the model that gave it."""

    text: str
    prompt_tokens: int
    completion_tokens: int
    """Like `prompt_tokens` 0 where a service does not say."""
    finish_reason: Literal["stop", "length"]
    probabilities: Mapping[str, float] | None = None
    """Of the words of the request's `choice`, which add up to 1; None where none were asked for or the engine does not
    say."""
    choice_share: float | None = None
    """How likely the model would have said one of the words, had it not been kept to them; None where it was not."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What one judge says of one answer. `unscored` is no verdict: it stays out of every rate and is shown."""

    judge: str
    label: Label
    reason: str = ""
    score: float | None = None
    """The probability that the judge gives to `comply` (a harmful answer, of a judge of harm), where it says one."""
    retry: bool = False
    """Whether it is unscored because the judge could not be reached: not kept, so that the next evaluation asks again."""
    paper_label: Label | None = None
    """What the original's rules make of an answer that the judge says nothing of, where that is another label: counted by
    `protocol: paper` alone, and shown there."""


@dataclass(frozen=True, kw_only=True)
class EvaluatedSample:
    sample_id: str
    condition: str
    subset: Subset
    attack: str
    group_id: str
    question: str
    image: str | None
    """SHA-256 of the encoded image; the store has its bytes."""
    target: Mapping[str, str] = field(default_factory=dict)
    answer: str | None
    """The model's answer; None where it could not answer, see `error`."""
    error: str = ""
    verdicts: tuple[Verdict, ...]
    """One of each judge, in the evaluation's order of judges."""
    prefill: str = ""
    """Start of `answer` that was put into the model's mouth."""

    def verdict(self, judge: str) -> Verdict:
        """Raises KeyError when the judge did not judge this sample."""
        for verdict in self.verdicts:
            if verdict.judge == judge:
                return verdict
        raise KeyError(f"sample {self.sample_id}: no verdict of {judge!r}")


def evaluated_sample(
    sample: Sample, answer: str | None, error: str, verdicts: tuple[Verdict, ...]
) -> EvaluatedSample:
    return EvaluatedSample(**sample_tree(sample), answer=answer, error=error, verdicts=verdicts)


def evaluated_tree(sample: EvaluatedSample) -> dict[str, Any]:
    """The sample as JSON."""
    tree = {
        **{name: getattr(sample, name) for name in sample.__dataclass_fields__},
        "target": dict(sample.target),
        "verdicts": [verdict_tree(verdict) for verdict in sample.verdicts],
    }
    return (
        tree if sample.prefill else {key: value for key, value in tree.items() if key != "prefill"}
    )


def evaluated_from(tree: Mapping[str, Any]) -> EvaluatedSample:
    """The sample of a stored tree; its `position` is left out."""
    fields = {name: value for name, value in tree.items() if name != "position"}
    verdicts = tuple(Verdict(**verdict) for verdict in tree["verdicts"])
    return EvaluatedSample(**{**fields, "verdicts": verdicts})


def verdict_tree(verdict: Verdict) -> dict[str, Any]:
    return {name: getattr(verdict, name) for name in verdict.__dataclass_fields__}


EVALUATION_SCOPE = "evaluation"
INPUTS = "2"
"""The version of how inputs reach a model: raised when the same question and image do so otherwise than before,
whatever the engine."""


def scoped_key(key: Mapping[str, str], evaluation_id: str) -> dict[str, str]:
    """A generator's or judge's key, bound to one evaluation where what it serves cannot be told."""
    if key.get("scope") == EVALUATION_SCOPE:
        return {**key, "evaluation": evaluation_id}
    return dict(key)


def generation_key(generator: Mapping[str, str], request: Request, decoding: DecodingConfig) -> str:
    tree = {
        "inputs": INPUTS,
        "generator": dict(generator),
        "question": request.question,
        "image": request.image.digest if request.image else None,
        "system": request.system,
        "prefill": request.prefill,
        "decoding": _decoding_tree(request.decoded_by(decoding)),
    }
    # What most requests do not have is left out, so that their keys stay what they were.
    rare = {
        "answered": request.answered,
        "schema": request.schema,
        "choice": None if request.choice is None else to_tree(request.choice),
    }
    return digest_of(tree | {name: value for name, value in rare.items() if value is not None})


def verdict_key(judge: Mapping[str, str], sample: Sample, answer: str) -> str:
    return digest_of(
        {
            "judge": dict(judge),
            "question": sample.question,
            "image": sample.image.digest if sample.image else None,
            "subset": sample.subset,
            "target": dict(sample.target),
            "answer": answer,
        }
    )


def _decoding_tree(decoding: DecodingConfig) -> dict[str, Any]:
    """The part of a decoding that decides answers: greedy ones depend on neither seed nor top_p."""
    tree: dict[str, Any] = to_tree(decoding)
    if decoding.temperature == 0:
        return {"max_new_tokens": tree["max_new_tokens"], "temperature": 0.0}
    return tree
