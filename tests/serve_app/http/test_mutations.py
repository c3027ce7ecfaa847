"""Bodies that are nearly right: each gets a documented answer, and the server never fails."""

import copy
import json
import random
from typing import Any

import pytest

from serve_app.batches import Files
from tests.serve_app.conftest import Client
from tests.serve_app.world import MODEL, World, data_uri, png

pytestmark = pytest.mark.anyio
IMAGE = {"type": "image_url", "image_url": {"url": data_uri(png()), "detail": "auto"}}
SAMPLE = {"sample_id": "a", "condition": "c", "subset": "safe", "question": "q"}
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {
        "model": MODEL,
        "messages": [
            {"role": "system", "content": "be kind"},
            {"role": "user", "content": [{"type": "text", "text": "what"}, IMAGE]},
            {"role": "assistant", "content": "Sure", "refusal": None},
        ],
        "n": 2,
        "stop": ["x"],
        "seed": 1,
        "logprobs": True,
        "top_logprobs": 1,
        "stream": False,
        "stream_options": {"include_usage": True},
        "response_format": {"type": "text"},
        "temperature": 0.5,
        "tools": [],
    },
    "/v1/completions": {"model": MODEL, "prompt": ["a", "b"], "max_tokens": 3, "logprobs": 1},
    "/v1/responses": {
        "model": MODEL,
        "instructions": "be kind",
        "input": [
            {"role": "user", "content": [{"type": "input_text", "text": "a"}]},
            {"type": "message", "role": "assistant", "content": "b"},
            {"role": "user", "content": "c"},
        ],
        "text": {"format": {"type": "text"}},
        "stream": False,
    },
    "/v1/moderations": {"input": [{"type": "text", "text": "a"}, IMAGE], "model": "keywords"},
    "/v1/judgements": {
        "judge": "keywords",
        "items": [{"question": "q", "answer": "a", "target": {"k": "v"}, "subset": "safe"}],
    },
    "/v1/evaluations": {
        "model": MODEL,
        "samples": [SAMPLE],
        "judges": ["keywords"],
        "decoding": {"max_new_tokens": 4, "seed": 1},
        "sample": 1,
    },
    "/v1/batches": {
        "input_file_id": "file-1",
        "endpoint": "/v1/chat/completions",
        "completion_window": "24h",
        "metadata": {"a": "b"},
    },
}
VALUES = [
    None,
    True,
    0,
    -1,
    1.5,
    2**70,
    "",
    "x",
    "é\0",
    "../x",
    [],
    [[]],
    {},
    {"a": 1},
    [None],
    "9" * 50,
]


def places(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of everything in a tree."""
    inner = (
        tree.items()
        if isinstance(tree, dict)
        else enumerate(tree)
        if isinstance(tree, list)
        else ()
    )
    return [path, *(found for key, value in inner for found in places(value, (*path, key)))]


def mutated(rng: random.Random, tree: Any) -> Any:
    """The tree with one or two of its parts replaced, doubled or taken out."""
    tree = copy.deepcopy(tree)
    for _ in range(rng.randint(1, 2)):
        path = rng.choice(places(tree)[1:])
        *parents, last = path
        owner = tree
        for key in parents:
            owner = owner[key]
        match rng.randrange(3):
            case 0:
                del owner[last]
            case 1 if isinstance(owner, dict):
                owner[f"{last}_"] = owner[last]
            case _:
                owner[last] = copy.deepcopy(rng.choice(VALUES))
        if not places(tree)[1:]:
            break
    return tree


@pytest.mark.parametrize("path", BODIES)
async def test_body_that_is_nearly_right_never_fails_the_server(
    client: Client, world: World, path: str
) -> None:
    rng = random.Random(path)
    async with client(files=Files(world.storage.files)) as http:
        for _ in range(60):
            content = json.dumps(mutated(rng, BODIES[path])).encode()
            # `client` itself holds each answer against the OpenAPI page.
            response = await http.post(
                path, content=content, headers={"Content-Type": "application/json"}
            )
            assert response.status_code < 500, (content, response.text)
        right = await http.post(path, json=BODIES[path])
    assert right.status_code in {200, 202} or path == "/v1/batches"
