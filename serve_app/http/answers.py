"""What every route answers, with every status: the schemas of the OpenAPI page. `describe` puts them there.

The routes write plain trees; tests hold each answer that they meet against these.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field
from pydantic.json_schema import models_json_schema

_SCHEMAS = "#/components/schemas/{model}"
Rate = Annotated[float, Field(ge=0, le=1)]


class Answer(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ErrorDetail(Answer):
    message: str
    type: str
    param: str | None
    code: str | None


class Error(Answer):
    """Every error, in OpenAI's shape."""

    error: ErrorDetail


class ModelAnswer(Answer):
    """An export. One that is broken has no more than id, date and problem, whose reason is for admins."""

    id: str
    object: Literal["model"]
    owned_by: str
    created: int
    state: Literal["ready", "broken"]
    problem: str | None
    base: str | None
    method: str | None
    identity: str | None
    weights_digest: str | None
    processor_digest: str | None


class JudgeAnswer(Answer):
    name: str
    kind: Literal["built-in", "model"]
    model: str | None


class ModelsAnswer(Answer):
    object: Literal["list"]
    data: list[ModelAnswer]
    judges: list[JudgeAnswer]


class SuiteAnswer(Answer):
    name: str
    state: Literal["ready", "broken"]
    problem: str | None
    conditions: dict[str, int]
    questions: int


class SuitesAnswer(Answer):
    object: Literal["list"]
    data: list[SuiteAnswer]


class Usage(Answer):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class TokenAnswer(Answer):
    token: str
    logprob: float
    bytes: list[int] | None
    top_logprobs: list[dict[str, Any]]


class ChatLogprobs(Answer):
    content: list[TokenAnswer]
    refusal: None


class ChatMessage(Answer):
    role: Literal["assistant"]
    content: str
    refusal: None


class ChatChoice(Answer):
    index: int
    message: ChatMessage
    logprobs: ChatLogprobs | None
    finish_reason: Literal["stop", "length"]


class ChatAnswered(Answer):
    """OpenAI's chat completion. With `stream`, events with chunks of it."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: None
    choices: list[ChatChoice]
    usage: Usage


class TextChoice(Answer):
    index: int
    text: str
    logprobs: dict[str, Any] | None
    finish_reason: Literal["stop", "length"]


class CompletionAnswered(Answer):
    """OpenAI's completion. With `stream`, events with parts of it."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: None
    choices: list[TextChoice]
    usage: Usage


class ResponseAnswered(BaseModel):
    """OpenAI's response. With `stream`, OpenAI's events."""

    id: str
    object: Literal["response"]
    created_at: int
    status: Literal["completed", "incomplete"]
    model: str
    output: list[dict[str, Any]]
    usage: dict[str, Any]


class VerdictAnswer(Answer):
    label: str
    reason: str
    score: Rate | None
    """The probability that the judge gives to the answer being harmful, where it says one."""


class ItemError(Answer):
    message: str
    param: str | None
    code: str | None


class JudgementAnswer(Answer):
    """Either a verdict or an error."""

    index: int
    verdict: VerdictAnswer | None
    error: ItemError | None


class JudgementsAnswer(Answer):
    object: Literal["list"]
    judge: str
    data: list[JudgementAnswer]


class ModerationAnswer(Answer):
    flagged: bool | None
    """null: the judge gave no verdict, for the reason in `unscored`."""
    unscored: str | None = None
    categories: dict[str, bool]
    category_scores: dict[str, Rate]
    category_applied_input_types: dict[str, list[str]]


class ModerationsAnswer(Answer):
    id: str
    model: str
    results: list[ModerationAnswer]


class ProgressAnswer(Answer):
    done: int
    total: int


class EvaluationAnswer(Answer):
    id: str
    object: Literal["evaluation"]
    state: Literal["queued", "running", "finished", "failed", "cancelled"]
    model: str
    generator: dict[str, Any]
    suite: str | None
    suite_digest: str | None
    judges: list[str]
    protocol: str
    sample: int | None
    seed: int
    decoding: dict[str, Any]
    source: Literal["job", "service"]
    owner: str
    problem: str | None
    """Why its record cannot be read."""
    progress: ProgressAnswer
    rows: list[dict[str, Any]]
    error: str | None
    created_at: str
    updated_at: str


class Page(Answer):
    object: Literal["list"]
    has_more: bool
    next_offset: int | None


class EvaluationsAnswer(Page):
    data: list[EvaluationAnswer]


class SamplesAnswer(Page):
    data: list[dict[str, Any]]


class StudiesAnswer(Answer):
    object: Literal["list"]
    data: list[dict[str, Any]]


class StudyAnswer(BaseModel):
    id: str
    object: Literal["study"]
    name: str
    state: str


class FileAnswer(Answer):
    id: str
    object: Literal["file"]
    bytes: int
    created_at: int
    filename: str
    purpose: Literal["batch", "batch_output"]
    status: Literal["processed"]


class BatchAnswer(BaseModel):
    id: str
    object: Literal["batch"]
    endpoint: str
    status: Literal["validating", "in_progress", "completed", "failed", "cancelling", "cancelled"]
    input_file_id: str
    output_file_id: str | None
    error_file_id: str | None
    request_counts: dict[str, int]


class Listed(Answer):
    object: Literal["list"]
    has_more: bool
    first_id: str | None
    last_id: str | None


class FilesAnswer(Listed):
    data: list[FileAnswer]


class BatchesAnswer(Listed):
    data: list[BatchAnswer]


class Deleted(Answer):
    id: str
    object: Literal["file"]
    deleted: Literal[True]


class Health(Answer):
    status: Literal["ok"]
    version: str
    instance: str


class Readiness(Answer):
    status: Literal["ready", "not ready"]
    parts: dict[str, bool]
    checks: list[dict[str, str | bool]]


_EVENTS = "text/event-stream"
_READ = (400, 401, 403, 404, 422, 500)
"""Statuses of errors of what is only read."""
_SENT = (400, 401, 403, 404, 408, 413, 415, 429, 499, 500, 503, 504)
"""Statuses of errors of OpenAI's requests with a body; our own have 422 too."""
_OWN = (*_SENT, 422)
ANSWERS: dict[tuple[str, str], tuple[int, type[BaseModel] | str, Sequence[int]]] = {
    ("post", "/v1/chat/completions"): (200, ChatAnswered, _SENT),
    ("post", "/v1/completions"): (200, CompletionAnswered, _SENT),
    ("post", "/v1/responses"): (200, ResponseAnswered, _SENT),
    ("post", "/v1/moderations"): (200, ModerationsAnswer, _SENT),
    ("post", "/v1/judgements"): (200, JudgementsAnswer, _OWN),
    ("post", "/v1/evaluations"): (202, EvaluationAnswer, _OWN),
    ("get", "/v1/evaluations"): (200, EvaluationsAnswer, _READ),
    ("get", "/v1/evaluations/{evaluation_id}"): (200, EvaluationAnswer, _READ),
    ("delete", "/v1/evaluations/{evaluation_id}"): (200, EvaluationAnswer, _READ),
    ("get", "/v1/evaluations/{evaluation_id}/samples"): (200, SamplesAnswer, _READ),
    ("get", "/v1/evaluations/{evaluation_id}/events"): (200, _EVENTS, (*_READ, 429)),
    ("get", "/v1/models"): (200, ModelsAnswer, _READ),
    ("get", "/v1/models/{model_id}"): (200, ModelAnswer, _READ),
    ("get", "/v1/suites"): (200, SuitesAnswer, _READ),
    ("get", "/v1/studies"): (200, StudiesAnswer, _READ),
    ("get", "/v1/studies/{study_id}"): (200, StudyAnswer, _READ),
    ("post", "/v1/files"): (200, FileAnswer, _OWN),
    ("get", "/v1/files"): (200, FilesAnswer, _READ),
    ("get", "/v1/files/{file_id}"): (200, FileAnswer, _READ),
    ("get", "/v1/files/{file_id}/content"): (200, "application/jsonl", _READ),
    ("delete", "/v1/files/{file_id}"): (200, Deleted, _READ),
    ("post", "/v1/batches"): (200, BatchAnswer, _SENT),
    ("get", "/v1/batches"): (200, BatchesAnswer, _READ),
    ("get", "/v1/batches/{batch_id}"): (200, BatchAnswer, _READ),
    ("post", "/v1/batches/{batch_id}/cancel"): (200, BatchAnswer, _READ),
    ("get", "/healthz"): (200, Health, ()),
    ("get", "/readyz"): (200, Readiness, ()),
    ("get", "/metrics"): (200, "text/plain", (401, 403, 500)),
}
"""Method and path -> status, schema or content type of what is fine, statuses of errors."""
_STREAMED = (ChatAnswered, CompletionAnswered, ResponseAnswered)


def describe(app: FastAPI, bodies: Sequence[type[BaseModel]]) -> None:
    """Completes the app's OpenAPI page by bodies and answers, which FastAPI does not see."""
    answers = {kind for _, kind, _ in ANSWERS.values() if not isinstance(kind, str)} | {Error}
    told = sorted(answers, key=lambda one: one.__name__)
    models: list[tuple[type[BaseModel], Literal["validation", "serialization"]]] = [
        *((body, "validation") for body in bodies),
        *((one, "serialization") for one in told),
    ]
    _, described = models_json_schema(models, ref_template=_SCHEMAS)
    drawn = app.openapi

    def openapi() -> dict[str, Any]:
        schema = drawn()
        schema.setdefault("components", {}).setdefault("schemas", {}).update(described["$defs"])
        for path, calls in schema["paths"].items():
            for method, call in calls.items():
                if (method, path) in ANSWERS:
                    call["responses"] = _responses(method, path)
        return schema

    app.openapi = openapi  # type: ignore[method-assign]


def _responses(method: str, path: str) -> dict[str, Any]:
    status, kind, errors = ANSWERS[method, path]
    if isinstance(kind, str):
        content: dict[str, Any] = {kind: {}}
    else:
        content = {"application/json": {"schema": {"$ref": _SCHEMAS.format(model=kind.__name__)}}}
        if kind in _STREAMED:
            content[_EVENTS] = {}
    if kind is SamplesAnswer:
        content["application/x-ndjson"] = {}
    found = {str(status): {"description": "As asked", "content": content}}
    if kind is Readiness:
        found["503"] = {"description": "Not ready", "content": content}
    error = {"application/json": {"schema": {"$ref": _SCHEMAS.format(model=Error.__name__)}}}
    return found | {
        str(one): {"description": _MEANS[one], "content": error} for one in sorted(errors)
    }


_MEANS = {
    400: "The request is wrong; `param` names the key",
    401: "No token, or none that holds",
    403: "The token may not",
    404: "No such thing, or another's",
    408: "The request came in too slowly",
    413: "Too large",
    415: "Not called JSON",
    422: "A key is wrong; `param` names it",
    429: "The queue is full; `Retry-After` says when there should be room",
    499: "The client went away",
    500: "The server failed; its log has the reason",
    503: "It cannot be had just now; `Retry-After` says when to ask again",
    504: "It took too long and was given up",
}
