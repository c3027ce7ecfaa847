"""The commands beside the service: tokens, and an evaluation that a service does for a run file."""

import asyncio
import json
from pathlib import Path

import httpx
import pytest

from safemirage.config.evaluate import EvaluateConfig, service_body
from safemirage.config.loading.load import ConfigError, build_config
from tests.cli.calling import run
from tests.serve_app.test_evaluations import runner, scripted
from tests.serve_app.world import MODEL, READER, World

pytestmark = pytest.mark.anyio


async def test_token_is_shown_once_listed_without_itself_and_revoked(
    world: World, url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SAFEMIRAGE_STORAGE", str(world.storage.root))
    assert run("token", "create", "eve", "--scopes", "read", "--days", "3") == 0
    token = capsys.readouterr().out.strip()
    async with httpx.AsyncClient(headers={"Authorization": f"Bearer {token}"}) as http:
        assert (await http.get(f"{url}/v1/models")).status_code == 200
        assert (await http.post(f"{url}/v1/chat/completions", json={})).status_code == 403
        assert run("token", "create", "eve") == 2
        assert run("token", "list") == 0
        listed = capsys.readouterr().out
        assert "eve" in listed
        assert token not in listed
        assert run("token", "revoke", "eve") == 0
        assert (await http.get(f"{url}/v1/models")).status_code == 401
    assert run("token", "create", "adam", "--scopes", "wizard") == 2


async def test_run_file_is_evaluated_by_a_service(
    world: World, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAFEMIRAGE_API_TOKEN", READER)
    file = tmp_path / "run.yaml"
    file.write_text(
        f"model: {{name: transformers, path: exports/{MODEL}}}\nsuite: suites/toy\n"
        "judges: [{name: keywords}]\nsample: 2\n"
    )
    out = tmp_path / "out.json"
    async with runner(world, scripted()):
        code = await asyncio.to_thread(run, "evaluate", file, "--url", url, "--json", out)
    assert code == 0
    ended = json.loads(out.read_text())
    assert (ended["state"], ended["model"], ended["owner"]) == ("finished", MODEL, "reader")
    assert ended["progress"] == {"done": 4, "total": 4}


def test_run_file_of_what_a_service_has_not_is_refused_with_every_reason() -> None:
    model = {"name": "openai", "url": "http://127.0.0.1:1/v1", "model": "m"}
    questions = {"name": "xstest", "prompts": "prompts.csv"}
    config = build_config(EvaluateConfig, {"model": model, "set": questions})
    with pytest.raises(ConfigError, match=r"(?s)model: the service.*suite: the service"):
        service_body(config)
