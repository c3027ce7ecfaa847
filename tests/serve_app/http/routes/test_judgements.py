"""Judging a batch: one verdict an item, and a bad item spoils only itself."""

from typing import Any

import pytest

from safemirage.config.serve import LimitsConfig
from tests.serve_app.conftest import Client
from tests.serve_app.world import data_uri, png

pytestmark = pytest.mark.anyio
PATH = "/v1/judgements"


def item(answer: str = "sorry", **options: Any) -> dict[str, Any]:
    return {"question": "what is this", "answer": answer, **options}


async def test_judgements_come_in_order(client: Client) -> None:
    async with client() as http:
        response = await http.post(
            PATH, json={"judge": "keywords", "items": [item("sorry"), item("a ball")]}
        )
    assert response.status_code == 200
    assert [entry["verdict"]["label"] for entry in response.json()["data"]] == ["refuse", "comply"]


async def test_judgements_bad_item_does_not_fail_the_batch(client: Client) -> None:
    items = [
        item("sorry"),
        {"question": "no answer"},
        item("a ball", image="https://example.com/a.png"),
        "not an object",
        item("x" * 101),
        item("a ball", image=data_uri(png()), target={"kind": "ball"}, subset="safe"),
    ]
    async with client(limits=LimitsConfig(prompt_characters=100)) as http:
        response = await http.post(PATH, json={"judge": "keywords", "items": items})
    assert response.status_code == 200
    data = response.json()["data"]
    assert [entry["index"] for entry in data] == list(range(6))
    labels = [entry["verdict"] and entry["verdict"]["label"] for entry in data]
    assert labels == ["refuse", None, None, None, None, "comply"]
    params = [entry["error"] and entry["error"]["param"] for entry in data]
    assert params == [None, "items.1.answer", "items.2.image", "items.3", "items.4", None]


async def test_judgements_by_an_unknown_judge_name_the_known_ones(client: Client) -> None:
    async with client() as http:
        response = await http.post(PATH, json={"judge": "llama-guard", "items": [item()]})
    assert response.status_code == 404
    assert "keywords" in response.json()["error"]["message"]


@pytest.mark.parametrize(("count", "status"), [(0, 422), (2, 200), (3, 413)])
async def test_judgements_batch_has_a_size(client: Client, count: int, status: int) -> None:
    async with client(limits=LimitsConfig(items=2)) as http:
        response = await http.post(PATH, json={"judge": "keywords", "items": [item()] * count})
    assert response.status_code == status
