"""Chat completions: what is understood, what is refused, and how."""

import asyncio
import base64
import io
import json
import struct
import zlib
from typing import Any

import pytest
from PIL import Image

from safemirage.config.serve import LimitsConfig
from safemirage.evaluation.types import ChatRequest
from serve_app.http.admission import Admission
from serve_app.http.errors import ApiError
from tests.serve_app.conftest import Client
from tests.serve_app.world import MODEL, World, data_uri, png

pytestmark = pytest.mark.anyio
PATH = "/v1/chat/completions"
JSON = {"Content-Type": "application/json"}


def body(content: Any = "what is this", **options: Any) -> dict[str, Any]:
    return {"model": MODEL, "messages": [{"role": "user", "content": content}], **options}


def with_image(url: str, text: str = "what is this") -> list[dict[str, Any]]:
    return [
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "text", "text": text},
    ]


async def test_chat_answers_in_the_shape_of_openai(client: Client) -> None:
    async with client() as http:
        response = await http.post(PATH, json=body())
    assert response.status_code == 200
    answer = response.json()
    assert answer["object"] == "chat.completion"
    assert answer["model"] == MODEL
    assert answer["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "siht si tahw", "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]
    assert answer["usage"] == {"prompt_tokens": 12, "completion_tokens": 12, "total_tokens": 24}


async def test_chat_hands_the_whole_turn_to_the_model(client: Client, world: World) -> None:
    image = png(5, 7)
    messages = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": with_image(data_uri(image), "what?")},
        {"role": "assistant", "content": "Sure"},
    ]
    async with client() as http:
        response = await http.post(
            PATH,
            json={
                "model": MODEL,
                "messages": messages,
                "continue_final_message": True,
                "add_generation_prompt": False,
                "max_completion_tokens": 7,
                "temperature": 0,
                "top_p": 0.5,
                "seed": 3,
            },
        )
    assert response.status_code == 200, response.text
    [(model, request, decoding)] = world.engines.requests
    assert model == MODEL
    assert (request.question, request.system, request.prefill) == ("what?", "Be kind.", "Sure")
    assert request.image is not None
    assert request.image.data == image
    assert (decoding.max_new_tokens, decoding.temperature, decoding.top_p, decoding.seed) == (
        7,
        0,
        0.5,
        3,
    )


async def test_chat_without_options_samples_anew_as_openai_does(
    client: Client, world: World
) -> None:
    async with client() as http:
        for _ in range(2):
            await http.post(PATH, json=body())
    first, second = (decoding for _, _, decoding in world.engines.requests)
    assert (first.temperature, first.top_p, first.max_new_tokens) == (1.0, 1.0, 256)
    assert first.seed != second.seed


async def test_chat_streams_chunks_and_ends_with_done(client: Client) -> None:
    async with client() as http:
        response = await http.post(
            PATH, json=body(stream=True, stream_options={"include_usage": True})
        )
    assert response.headers["content-type"].startswith("text/event-stream")
    *lines, last = [line for line in response.text.split("\n\n") if line]
    assert last == "data: [DONE]"
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines]
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk["id"] for chunk in chunks}) == 1
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks if chunk["choices"]]
    assert deltas[0]["role"] == "assistant"
    assert "".join(delta.get("content", "") for delta in deltas) == "siht si tahw"
    assert chunks[-2]["choices"][0]["finish_reason"] == "stop"
    assert chunks[-1]["usage"]["total_tokens"] == 24


async def test_chat_with_an_unknown_model_names_the_known_ones(client: Client) -> None:
    async with client() as http:
        response = await http.post(PATH, json={**body(), "model": "gpt-4"})
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (404, "model_not_found")
    assert "'gpt-4'" in error["message"]
    assert MODEL in error["message"]


@pytest.mark.parametrize("model", ["../secret", "a/b", ".hidden", "", "a\0b"])
async def test_chat_with_a_model_that_is_a_path_is_refused(client: Client, model: str) -> None:
    async with client() as http:
        response = await http.post(PATH, json={**body(), "model": model})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "model"


@pytest.mark.parametrize(
    ("options", "param", "code"),
    [
        ({"n": 0}, "n", "invalid_value"),
        ({"n": 17}, "n", "invalid_value"),
        ({"n": 2**70}, "n", "invalid_value"),
        ({"top_logprobs": 3}, "top_logprobs", "invalid_value"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "invalid_value"),
        ({"stop": ["a"] * 5}, "stop", "invalid_value"),
        ({"presence_penalty": 2.5}, "presence_penalty", "invalid_value"),
        ({"temperature": -1}, "temperature", "invalid_value"),
        ({"temperature": 1e400}, "temperature", "invalid_value"),
        ({"top_p": 0}, "top_p", "invalid_value"),
        ({"max_tokens": 0}, "max_tokens", "invalid_value"),
        ({"max_tokens": "many"}, "max_tokens", "invalid_type"),
        ({"seed": 2**64}, "seed", "invalid_value"),
        ({"temprature": 0}, "temprature", "unknown_parameter"),
        ({"messages": []}, "messages", "invalid_value"),
        ({"messages": None}, "messages", "invalid_type"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "messages.0.role", "invalid_value"),
        ({"messages": [{"content": "x"}]}, "messages.0.role", "missing_required_parameter"),
        ({"tools": [{"type": "function"}]}, "tools", "unsupported_parameter"),
        ({"tool_choice": "required"}, "tool_choice", "unsupported_parameter"),
        ({"logit_bias": {"5": 1}}, "logit_bias", "unsupported_parameter"),
        ({"store": True}, "store", "unsupported_parameter"),
        ({"modalities": ["audio"]}, "modalities", "unsupported_parameter"),
        ({"response_format": {"type": "json_object"}}, "response_format", "unsupported_value"),
    ],
)
async def test_chat_option_that_is_not_supported_is_named_in_the_words_of_openai(
    client: Client, world: World, options: dict[str, Any], param: str, code: str
) -> None:
    async with client() as http:
        content = json.dumps({**body(), **options})
        response = await http.post(PATH, content=content, headers=JSON)
    assert response.status_code == 400
    error = response.json()["error"]
    assert (error["type"], error["code"]) == ("invalid_request_error", code)
    assert error["param"] == param
    assert world.engines.requests == []


async def test_chat_neutral_values_of_every_documented_option_are_taken(client: Client) -> None:
    neutral = {
        "audio": None,
        "frequency_penalty": 0,
        "function_call": "none",
        "functions": [],
        "logit_bias": {},
        "logprobs": False,
        "metadata": {"run": "a"},
        "modalities": ["text"],
        "n": 1,
        "parallel_tool_calls": False,
        "prediction": None,
        "presence_penalty": 0.0,
        "prompt_cache_key": "k",
        "reasoning_effort": None,
        "response_format": {"type": "text"},
        "safety_identifier": "me",
        "service_tier": "auto",
        "stop": None,
        "store": False,
        "stream": False,
        "stream_options": None,
        "tool_choice": "none",
        "tools": [],
        "top_logprobs": None,
        "user": "me",
        "verbosity": None,
        "web_search_options": None,
    }
    async with client() as http:
        response = await http.post(PATH, json=body(**neutral))
        seeds = [
            (await http.post(PATH, json=body(seed=seed))).status_code
            for seed in (-(2**63), 2**63, 2**64 - 1)
        ]
    assert response.status_code == 200, response.text
    assert seeds == [200, 200, 200]


async def test_conversation_of_several_turns_and_images_reaches_the_model_whole(
    client: Client, world: World
) -> None:
    first, second, third = png(4, 4), png(5, 5), png(6, 6)
    messages = [
        {"role": "developer", "content": "Be kind."},
        {"role": "user", "content": with_image(data_uri(first), "one?")},
        # As the openai client sends an answer back.
        {"role": "assistant", "content": "two", "refusal": None, "tool_calls": None},
        {"role": "user", "content": "three?"},
        {"role": "user", "content": [*with_image(data_uri(second)), *with_image(data_uri(third))]},
        {"role": "assistant", "content": "Sure"},
    ]
    async with client() as http:
        response = await http.post(PATH, json={"model": MODEL, "messages": messages})
    assert response.status_code == 200, response.text
    [(_, request, _)] = world.engines.requests
    assert isinstance(request, ChatRequest)
    assert request.system == "Be kind."
    assert [(turn.role, turn.text) for turn in request.earlier] == [
        ("user", "one?"),
        ("assistant", "two"),
    ]
    assert request.question == "three?\nwhat is this\nwhat is this"
    assert [image.data for image in request.images] == [first, second, third]
    assert request.prefill == "Sure"


@pytest.mark.parametrize(
    ("roles", "says"),
    [
        (["system"], "no message of the user"),
        (["assistant"], "no message of the user"),
        (["user", "system"], "before all others"),
    ],
)
async def test_messages_that_are_no_conversation_are_refused(
    client: Client, roles: list[str], says: str
) -> None:
    messages = [{"role": role, "content": "x"} for role in roles]
    async with client() as http:
        response = await http.post(PATH, json={"model": MODEL, "messages": messages})
    assert response.status_code == 400
    assert says in response.json()["error"]["message"]


async def test_choices_stop_texts_penalties_and_chances(client: Client, world: World) -> None:
    options = {"n": 3, "seed": 5, "stop": " tah", "presence_penalty": 0.5, "logprobs": True}
    async with client() as http:
        answer = (await http.post(PATH, json=body(**options, top_logprobs=0))).json()
        streamed = await http.post(PATH, json=body(**options, stream=True))
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
    assert {choice["message"]["content"] for choice in answer["choices"]} == {"siht si"}
    content = answer["choices"][0]["logprobs"]["content"]
    assert [entry["token"] for entry in content][:4] == list("siht")
    assert content[0]["bytes"] == [ord("s")]
    assert answer["usage"]["prompt_tokens"] == 12, "one prompt has three answers"
    # The three are asked together, and come in any order.
    seeds = {decoding.seed for _, _, decoding in world.engines.requests[:3]}
    assert 5 in seeds
    assert len(seeds) == 3
    request = world.engines.requests[0][1]
    assert isinstance(request, ChatRequest)
    assert request.options.presence_penalty == 0.5
    chunks = [json.loads(line[6:]) for line in streamed.text.split("\n\n")[:-2]]
    texts = ["", "", ""]
    for chunk in chunks:
        for choice in chunk["choices"]:
            texts[choice["index"]] += choice["delta"].get("content", "")
    assert set(texts) == {"siht si"}


async def test_caller_that_goes_away_takes_its_requests_out_of_the_engine(
    client: Client, world: World
) -> None:
    world.engines.delay_s = world.engines.pause_s = 30
    async with client() as http:
        for stream in (False, True):
            sent = [asyncio.create_task(http.post(PATH, json=body(stream=stream))) for _ in "abc"]
            while world.engines.running < 3:
                await asyncio.sleep(0.01)
            for one in sent:
                one.cancel()
            await asyncio.gather(*sent, return_exceptions=True)
            assert world.engines.running == 0


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[1, 2]", b'"text"', b"\xff\xfe", b"[" * 30, b"null", b'"\xff"']
)
async def test_malformed_body_is_refused_in_the_same_shape(client: Client, content: bytes) -> None:
    async with client() as http:
        response = await http.post(PATH, content=content, headers=JSON)
    assert response.status_code in {400, 422}
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}


def bitmap() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (4, 4)).save(stream, "BMP")
    return stream.getvalue()


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com/a.png",
        "http://169.254.169.254/latest",
        "file:///etc/passwd",
        "/etc/passwd",
        "data:text/html;base64,aGk=",
        "data:image/png,raw",
        "data:image/png;base64,!!!!",
        "data:image/png;base64,aGVsbG8=",
        "data:image/svg+xml;base64," + base64.b64encode(b"<svg/>").decode(),
        data_uri(png()[:-20]),
        "data:image/png;base64,\u00e9\u00e9\u00e9\u00e9",
        data_uri(bitmap(), "bmp"),
    ],
)
async def test_image_that_is_none_is_refused(client: Client, world: World, url: str) -> None:
    async with client() as http:
        response = await http.post(PATH, json=body(with_image(url)))
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["param"] == "messages.image_url"
    assert error["code"] in {"invalid_image", "remote_image_refused"}
    assert world.engines.requests == []


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few hundred bytes whose header announces width x height pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(1000)))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("side", [5_000, 12_000, 60_000])
async def test_image_bomb_is_refused_before_it_is_decoded(client: Client, side: int) -> None:
    async with client() as http:
        response = await http.post(PATH, json=body(with_image(data_uri(bomb(side, side)))))
    assert response.status_code == 413
    assert response.json()["error"]["code"] == "image_too_large"


@pytest.mark.parametrize("size", [(8_000_000, 1), (1, 51), (8193, 8), (9000, 900)])
async def test_image_that_is_a_strip_is_refused_before_a_model_scales_it_up(
    client: Client, world: World, size: tuple[int, int]
) -> None:
    async with client() as http:
        response = await http.post(PATH, json=body(with_image(data_uri(bomb(*size)))))
        allowed = await http.post(PATH, json=body(with_image(data_uri(png(200, 4)))))
    assert response.status_code == 413
    error = response.json()["error"]
    assert error["code"] == "image_too_large"
    assert f"{size[0]} x {size[1]}" in error["message"]
    assert allowed.status_code == 200
    assert len(world.engines.requests) == 1


async def test_image_that_is_none_is_refused_without_a_word_of_the_inside(client: Client) -> None:
    async with client() as http:
        response = await http.post(PATH, json=body(with_image(data_uri(b"no image"))))
    assert response.json()["error"]["message"] == (
        "messages.image_url: holds no image that can be read (PNG, JPEG, WEBP, GIF)"
    )


@pytest.mark.parametrize(
    "text",
    [
        '"content": "half \\ud800 of one"',
        '"content": [{"type": "text", "text": "\\udc00"}]',
        '"content": "a", "name": "\\ud800"',
        '"content": "a", "\\ud800": 1',
    ],
)
async def test_text_that_is_not_unicode_is_refused(client: Client, world: World, text: str) -> None:
    content = f'{{"model": "{MODEL}", "messages": [{{"role": "user", {text}}}]}}'
    async with client() as http:
        response = await http.post(PATH, content=content, headers=JSON)
    assert response.status_code == 400
    assert response.json()["error"]["code"] in {
        "invalid_value",
        "invalid_type",
        "unknown_parameter",
    }
    assert world.engines.requests == []


@pytest.mark.parametrize(
    "spell",
    [
        lambda uri: uri.replace(";base64", ";charset=utf-8;base64"),
        lambda uri: uri.rstrip("="),
    ],
)
async def test_data_uri_is_read_with_parameters_and_without_padding(
    client: Client, world: World, spell: Any
) -> None:
    image = next(data for side in range(1, 9) if len(data := png(side, side)) % 3)
    async with client() as http:
        response = await http.post(PATH, json=body(with_image(spell(data_uri(image)))))
    assert response.status_code == 200, response.text
    [(_, request, _)] = world.engines.requests
    assert request.image is not None
    assert request.image.data == image


async def test_image_over_the_limits_is_refused(client: Client) -> None:
    limits = LimitsConfig(image_bytes=50)
    async with client(limits=limits) as http:
        assert (await http.post(PATH, json=body(with_image(data_uri(png()))))).status_code == 413
    async with client(limits=LimitsConfig(image_pixels=15)) as http:
        assert (await http.post(PATH, json=body(with_image(data_uri(png()))))).status_code == 413
    async with client(limits=LimitsConfig(image_pixels=16)) as http:
        assert (await http.post(PATH, json=body(with_image(data_uri(png()))))).status_code == 200


async def test_body_over_the_limit_is_refused_announced_or_not(client: Client) -> None:
    content = json.dumps(body("x" * 2000)).encode()

    async def unannounced() -> Any:
        for start in range(0, len(content), 100):
            yield content[start : start + 100]

    async with client(limits=LimitsConfig(body_bytes=1000)) as http:
        announced = await http.post(PATH, content=content)
        streamed = await http.post(PATH, content=unannounced(), headers=JSON)
    for response in (announced, streamed):
        assert response.status_code == 413
        assert "1000 bytes" in response.json()["error"]["message"]


@pytest.mark.parametrize("announced", ["9" * 5000, "0" * 5000 + "33554433"])
async def test_body_length_of_many_digits_is_refused_by_size(
    client: Client, announced: str
) -> None:
    async with client() as http:
        response = await http.post(
            PATH, content=b"{}", headers={**JSON, "Content-Length": announced}
        )
    assert response.status_code == 413


async def test_question_over_the_limit_is_refused(client: Client) -> None:
    async with client(limits=LimitsConfig(prompt_characters=10)) as http:
        assert (await http.post(PATH, json=body("x" * 10))).status_code == 200
        response = await http.post(PATH, json=body("x" * 11))
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "context_length_exceeded"


async def test_more_tokens_than_the_limit_are_refused(client: Client) -> None:
    limits = LimitsConfig(new_tokens=8, default_new_tokens=8)
    async with client(limits=limits) as http:
        response = await http.post(PATH, json=body(max_tokens=9))
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "max_tokens"


async def test_queue_full_of_work_turns_callers_away_and_says_how_long_it_will_take(
    client: Client, world: World
) -> None:
    world.engines.delay_s = 0.2
    limits = LimitsConfig(waiting_tokens=700, share=1, retry_after_s=7, new_tokens=512)
    async with client(limits=limits) as http:
        # Each is 3 tokens of question and 300 of answer.
        crowd = (http.post(PATH, json=body(max_tokens=300)) for _ in range(5))
        responses = await asyncio.gather(*crowd)
        codes = sorted(response.status_code for response in responses)
        assert codes == [200, 200, 429, 429, 429]
        turned_away = next(item for item in responses if item.status_code == 429)
        assert int(turned_away.headers["Retry-After"]) >= 7
        assert turned_away.json()["error"]["code"] == "queue_full"
        assert (await http.post(PATH, json=body())).status_code == 200


async def test_one_caller_cannot_fill_the_queue(client: Client, world: World) -> None:
    world.engines.delay_s = 0.3
    limits = LimitsConfig(waiting=8, share=0.5)
    admission = Admission(limits)
    with admission.place("a"), admission.place("a"), admission.place("a"), admission.place("a"):
        with pytest.raises(ApiError, match="this token has 4 requests"):
            admission.check("a")
        admission.check("b")


async def test_slow_request_is_given_up_and_gives_its_place_back(
    client: Client, world: World
) -> None:
    world.engines.delay_s = 30
    async with client(limits=LimitsConfig(request_timeout_s=0.05, waiting=1)) as http:
        response = await http.post(PATH, json=body())
        assert response.status_code == 504
        assert response.json()["error"]["type"] == "timeout_error"
        assert world.engines.running == 0
        world.engines.delay_s = 0
        assert (await http.post(PATH, json=body())).status_code == 200


async def test_failure_inside_says_nothing_of_the_inside(client: Client, world: World) -> None:
    world.engines.failure = RuntimeError("secret path /root/.key")
    async with client() as http:
        response = await http.post(PATH, json=body())
    assert response.status_code == 500
    assert "secret" not in response.text
    assert response.json()["error"]["code"] == "internal_error"


async def test_framework_errors_have_the_same_shape(client: Client) -> None:
    async with client() as http:
        for response, status in (
            (await http.get("/nothing"), 404),
            (await http.get("/v1/nothing"), 404),
            (await http.get(PATH), 405),
            (await http.get("/static/../api.py"), 404),
        ):
            assert response.status_code == status
            assert set(response.json()["error"]) == {"message", "type", "param", "code"}
