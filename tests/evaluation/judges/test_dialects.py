"""Judges behind servers that each speak a dialect of OpenAI's: what fails, what the screen says, which key mends it."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import httpx2
import pytest

from safemirage.config.generators import DecodingConfig, OpenAIConfig
from safemirage.config.judges import JudgePromptConfig
from safemirage.evaluation.generators import GeneratorUnavailable
from safemirage.evaluation.generators.openai import OpenAIGenerator
from safemirage.evaluation.judges import Judged
from safemirage.evaluation.judges.asked import JudgeNotUnderstood, require_understood
from safemirage.evaluation.judges.guards import GuardJudge
from safemirage.evaluation.judges.model import ModelJudge
from safemirage.evaluation.judges.relevance import RelevanceJudge, RelevancePrompts
from safemirage.evaluation.types import Verdict
from tests.evaluation.samples import make_sample

Body = dict[str, Any]
Server = Callable[[Body], httpx2.Response]
VERDICT = '{"verdict": "harmful", "reason": "how to"}'
ITEMS = [Judged(sample=make_sample(str(place)), answer="an answer") for place in range(10)]


def says(content: Any, *, usage: bool = True, finish: str = "stop") -> httpx2.Response:
    body: Body = {"choices": [{"message": {"content": content}, "finish_reason": finish}]}
    return httpx2.Response(
        200,
        json={**body, "usage": {"prompt_tokens": 1, "completion_tokens": 1}} if usage else body,
    )


def refuses(problem: str) -> httpx2.Response:
    return httpx2.Response(400, json={"error": {"message": problem}})


def needs_max_completion_tokens(body: Body) -> httpx2.Response:
    if "max_tokens" in body:
        return refuses("Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.")
    return says(VERDICT)


def takes_no_system_role(body: Body) -> httpx2.Response:
    if body["messages"][0]["role"] == "system":
        return refuses("System role not supported")
    assert "You label one answer" in body["messages"][0]["content"][0]["text"]
    return says(VERDICT)


def takes_no_temperature(body: Body) -> httpx2.Response:
    if "temperature" in body:
        return refuses("Unsupported value: 'temperature' does not support 0 with this model.")
    return says(VERDICT)


def takes_no_schema(body: Body) -> httpx2.Response:
    if body.get("response_format", {}).get("type") == "json_schema":
        return refuses("This response_format type is unavailable now")
    return says(VERDICT)


def reasons_at_length(body: Body) -> httpx2.Response:
    if body["max_tokens"] < 1000:
        return says("<think>First, the question asks", finish="length")
    return says(f"<think>First, the question asks how.</think>\n\n{VERDICT}")


def keeps_to_the_schema(body: Body) -> httpx2.Response:
    schema = body["response_format"]["json_schema"]["schema"]
    return says(json.dumps({"verdict": schema["properties"]["verdict"]["enum"][0], "reason": ""}))


def on(server: Server, ask: Callable[[OpenAIGenerator], Any], **dialect: Any) -> Any:
    def handler(request: httpx2.Request) -> httpx2.Response:
        if request.url.path.endswith("/models"):
            return httpx2.Response(404)
        return server(json.loads(request.content))

    async def run() -> Any:
        config = OpenAIConfig(url="http://judge/v1", model="m", **dialect)
        async with OpenAIGenerator(config, transport=httpx2.MockTransport(handler)) as generator:
            return await ask(generator)

    return asyncio.run(run())


def verdicts(server: Server, **dialect: Any) -> list[Verdict]:
    found: list[Verdict] = on(
        server, lambda model: ModelJudge("harm", JudgePromptConfig(), model).judge(ITEMS), **dialect
    )
    return found


def stopped(server: Server, *, max_unscored: float = 0.05) -> str:
    """What stops an evaluation before it asks its model anything."""
    samples = [item.sample for item in ITEMS]
    with pytest.raises(JudgeNotUnderstood) as caught:
        on(
            server,
            lambda model: require_understood(
                ModelJudge("harm", JudgePromptConfig(), model), samples, max_unscored=max_unscored
            ),
        )
    return str(caught.value)


@pytest.mark.parametrize(
    ("server", "dialect"),
    [
        (needs_max_completion_tokens, {"max_tokens_field": "max_completion_tokens"}),
        (takes_no_system_role, {"system_role": "user"}),
        (takes_no_temperature, {"send_temperature": False}),
        (takes_no_schema, {"response_format": "json_object"}),
        (takes_no_schema, {"response_format": "none"}),
        (reasons_at_length, {"reasoning_tokens": 2000}),
    ],
)
def test_dialect_stops_the_evaluation_with_the_key_that_mends_it(
    server: Server, dialect: Body
) -> None:
    ((key, value),) = dialect.items()
    text = stopped(server)
    assert "gave 0 verdicts that can be read" in text
    assert 'expected: one JSON object {"verdict": one of "harmful", "refusal", "harmless"' in text
    assert f"judges.<n>.model.{key}={str(value).lower()}" in text or value in (
        "none",
        "json_object",
    )
    assert key in text
    assert {verdict.label for verdict in verdicts(server, **dialect)} == {"comply"}


@pytest.mark.parametrize(
    "answer",
    [
        says([{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": VERDICT}]),
        says(VERDICT, usage=False),
    ],
    ids=["content in parts", "no usage"],
)
def test_answers_in_parts_and_without_usage_are_read_as_they_are(answer: httpx2.Response) -> None:
    assert {verdict.label for verdict in verdicts(lambda _: answer)} == {"comply"}


def test_schema_of_the_verdict_is_what_the_server_is_asked_to_keep_to() -> None:
    assert {verdict.label for verdict in verdicts(keeps_to_the_schema)} == {"comply"}


def test_nonsense_stops_the_evaluation_and_is_shown() -> None:
    text = stopped(lambda _: says("As an AI I would rather not say."), max_unscored=1.0)
    assert "As an AI I would rather not say." in text
    assert "safemirage judge-check" in text


def test_judge_that_is_silent_at_times_is_left_to_max_unscored() -> None:
    asked: list[Body] = []

    def at_times(body: Body) -> httpx2.Response:
        asked.append(body)
        return says(VERDICT if len(asked) % 2 else "hm")

    samples = [item.sample for item in ITEMS]
    on(
        at_times,
        lambda model: require_understood(
            ModelJudge("harm", JudgePromptConfig(), model), samples, max_unscored=0.05
        ),
    )
    assert len(asked) == len(samples)


def test_server_that_is_away_is_no_matter_of_understanding() -> None:
    samples = [item.sample for item in ITEMS]
    with pytest.raises(GeneratorUnavailable, match="cannot be reached"):
        on(
            lambda _: httpx2.Response(401, json={"error": {"message": "no key"}}),
            lambda model: require_understood(
                ModelJudge("harm", JudgePromptConfig(), model), samples, max_unscored=0.05
            ),
        )


@pytest.mark.parametrize("kind", ["relevance", "guard"])
def test_every_judge_that_asks_is_tried_by_its_own_form(kind: str) -> None:
    def judge(model: OpenAIGenerator) -> ModelJudge | RelevanceJudge | GuardJudge:
        if kind == "guard":
            return GuardJudge("j", "llama_guard_4", model, decoding=DecodingConfig())
        return RelevanceJudge("j", model, prompts=RelevancePrompts(), decoding=DecodingConfig())

    samples = [item.sample for item in ITEMS]
    with pytest.raises(JudgeNotUnderstood, match="Relevant:" if kind == "relevance" else "S9"):
        on(
            lambda _: says(VERDICT),
            lambda model: require_understood(judge(model), samples, max_unscored=0.05),
        )
