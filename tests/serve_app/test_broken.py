"""A broken export or suite is listed as broken, breaks nothing beside it, and is refused for good."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from safemirage.config.judges import ExportConfig, ModelJudgeConfig
from safemirage.config.serve import CheckpointsConfig
from safemirage.evaluation.generators import GeneratorBroken, GeneratorUnavailable
from safemirage.models.manifest import ExportError
from safemirage.settings import Settings
from safemirage.storage import Storage
from safemirage.store.evaluations import LEASE_PREFIX
from serve_app.engines.checkpoints import Checkpoints, reference_of
from serve_app.http.errors import without_paths
from tests.cluster.serving import write_tiny_export
from tests.serve_app.conftest import Client
from tests.serve_app.world import ADMIN, MODEL, World, write_export, write_suite

pytestmark = pytest.mark.anyio
CHAT = "/v1/chat/completions"
BROKEN = "other-0123456789ab"


def edited(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def edit(file: Path) -> None:
        tree = json.loads(file.read_text())
        change(tree)
        file.write_text(json.dumps(tree))

    return edit


MANIFESTS: list[tuple[Callable[[Path], Any], str]] = [
    (lambda file: file.write_text("{"), "manifest.json"),
    (lambda file: file.write_bytes(b"\xff\xfe"), "manifest.json"),
    (lambda file: file.unlink() or file.mkdir(), "manifest.json"),
    (edited(lambda tree: tree.pop("weights_digest")), "weights_digest"),
    (edited(lambda tree: tree.update(created_at="yesterday")), "yesterday"),
    (edited(lambda tree: tree.update(family="nobody")), "'nobody' is not known"),
    (
        edited(lambda tree: tree["files"].update({"model.safetensors": "0"})),
        "missing: model.safetensors",
    ),
]


def chat(model: str) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": "what is this"}]}


@pytest.mark.parametrize(("spoil", "named"), MANIFESTS)
async def test_broken_export_is_listed_as_broken_beside_the_others(
    client: Client, world: World, spoil: Callable[[Path], Any], named: str
) -> None:
    write_export(world.storage, BROKEN)
    spoil(world.storage.exports / BROKEN / "manifest.json")
    async with client() as http:
        plain = (await http.get(f"/v1/models/{BROKEN}")).json()
    assert (plain["state"], plain["problem"]) == ("broken", "broken"), "reasons are for admins"
    async with client(token=ADMIN) as http:
        cards = (await http.get("/v1/models")).json()["data"]
        one = (await http.get(f"/v1/models/{BROKEN}")).json()
        good = await http.post(CHAT, json=chat(MODEL))
        refused = await http.post(CHAT, json=chat(BROKEN))
    assert {card["id"]: card["state"] for card in cards} == {MODEL: "ready", BROKEN: "broken"}
    assert one == next(card for card in cards if card["id"] == BROKEN)
    assert (one["object"], one["owned_by"], type(one["created"])) == ("model", "safemirage", int)
    assert named in one["problem"]
    assert good.status_code == 200
    assert refused.status_code == 404
    error = refused.json()["error"]
    assert error["code"] == "model_broken"
    assert named in error["message"]
    assert "Retry-After" not in refused.headers
    for text in (one["problem"], error["message"]):
        assert str(world.storage.root) not in text


async def test_broken_export_is_refused_by_judgements_and_evaluations(
    client: Client, world: World
) -> None:
    write_export(world.storage, BROKEN)
    (world.storage.exports / BROKEN / "manifest.json").write_text("{")
    judge = ModelJudgeConfig(title="small", model=ExportConfig(id=BROKEN))
    item = {"question": "q", "answer": "a"}
    async with client(judges=[judge]) as http:
        judged = await http.post("/v1/judgements", json={"judge": "small", "items": [item]})
        asked = [
            await http.post("/v1/evaluations", json={"suite": "toy", **body})
            for body in (
                {"model": BROKEN, "judges": ["keywords"]},
                {"model": MODEL, "judges": ["small"]},
            )
        ]
    for response in (judged, *asked):
        assert response.status_code == 404
        assert response.json()["error"]["code"] == "model_broken"


@pytest.mark.parametrize(
    "content",
    [
        b"{",
        b"\xff",
        b"[]",
        b"{}",
        b'{"samples": 3}',
        b'{"samples": [1]}',
        b'{"samples": [{"condition": "a"}]}',
    ],
)
async def test_broken_suite_is_listed_as_broken_and_refused(
    client: Client, world: World, content: bytes
) -> None:
    write_suite(world.storage, "worse")
    (world.storage.suites / "worse" / "suite.json").write_bytes(content)
    async with client(token=ADMIN) as http:
        cards = (await http.get("/v1/suites")).json()["data"]
        body = {"model": MODEL, "suite": "worse", "judges": ["keywords"]}
        refused = await http.post("/v1/evaluations", json=body)
        taken = await http.post("/v1/evaluations", json={**body, "suite": "toy"})
    assert [(card["name"], card["state"]) for card in cards] == [
        ("toy", "ready"),
        ("worse", "broken"),
    ]
    assert "suite.json" in cards[1]["problem"]
    assert refused.status_code == 404
    assert refused.json()["error"]["code"] == "suite_broken"
    assert taken.status_code == 202


@pytest.mark.parametrize(
    ("failure", "status", "code"),
    [
        (GeneratorBroken("model 'x': config.json was changed"), 404, "model_broken"),
        (ExportError("/srv/exports/x: no manifest.json"), 404, "model_broken"),
        (GeneratorUnavailable("no memory is left under /srv/exports/x"), 503, "model_unavailable"),
    ],
)
async def test_only_what_may_be_mended_by_waiting_says_when_to_ask_again(
    client: Client, world: World, failure: Exception, status: int, code: str
) -> None:
    world.engines.failure = failure
    async with client() as http:
        response = await http.post(CHAT, json=chat(MODEL))
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (status, code)
    assert ("Retry-After" in response.headers) == (status == 503)
    assert "/srv" not in error["message"]


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    settings = Settings.at(tmp_path / "storage")
    storage = settings.storage
    write_tiny_export(storage, BROKEN, 1)
    return storage


@pytest.mark.parametrize(
    "spoil",
    [
        lambda folder: (folder / "config.json").write_text("{}"),
        lambda folder: (folder / "config.json").unlink(),
        lambda folder: edited(lambda tree: tree.update(files={}))(folder / "manifest.json"),
    ],
    ids=["changed", "missing", "not listed"],
)
async def test_replica_tells_what_is_wrong_for_good_and_names_no_folder(
    storage: Storage, spoil: Callable[[Path], Any]
) -> None:
    spoil(storage.exports / BROKEN)
    replica = Checkpoints(CheckpointsConfig(), Settings.at(storage.root))
    with pytest.raises(GeneratorBroken, match=r"config\.json") as raised:
        await replica.load(f"{BROKEN}@0")
    assert str(storage.root) not in str(raised.value)


async def test_broken_export_is_read_once_until_it_is_mended(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = storage.exports / BROKEN / "config.json"
    whole = config.read_text()
    config.write_text("{}")
    replica = Checkpoints(CheckpointsConfig(), Settings.at(storage.root))
    reference = reference_of(storage.exports, BROKEN)
    with pytest.raises(GeneratorBroken, match="changed"):
        await replica.load(reference)
    with monkeypatch.context() as patch:
        patch.setattr("serve_app.engines.checkpoints.open_export", lambda *_: pytest.fail("read"))
        with pytest.raises(GeneratorBroken, match="changed"):
            await replica.load(reference)
    config.write_text(whole)
    assert (await replica.load(reference)).key["engine"] == "transformers"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/srv/a/b.json: not there", "b.json: not there"),
        ("'/srv/a/exports/m' is no export", "'m' is no export"),
        ("see http://127.0.0.1:8000/v1/models", "see http://127.0.0.1:8000/v1/models"),
        ("safe and/or unsafe, 3/4", "safe and/or unsafe, 3/4"),
    ],
)
def test_paths_are_cut_to_their_last_part(text: str, shown: str) -> None:
    assert without_paths(text) == shown


async def test_error_of_an_evaluation_names_no_path_of_the_server(
    client: Client, world: World
) -> None:
    body = {"model": MODEL, "suite": "toy", "judges": ["keywords"]}
    async with client() as http:
        name = (await http.post("/v1/evaluations", json=body)).json()["id"]
        lease = world.store.leases.acquire(LEASE_PREFIX + name, ttl_s=60)
        assert lease is not None
        with lease:
            world.store.evaluations.start(name, lease=lease, total=0)
            world.store.evaluations.fail(name, "ExportError: /srv/x/m is none", lease=lease)
        failed = (await http.get(f"/v1/evaluations/{name}")).json()
    assert failed["error"] == "ExportError: m is none"
