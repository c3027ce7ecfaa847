"""Who may call, and how tokens are read."""

import stat
from pathlib import Path

import pytest

from safemirage.config.loading.load import ConfigError, build_config
from safemirage.config.serve import ServeConfig, is_loopback
from safemirage.store.tokens import USUAL, TokenFile
from serve_app.http.auth import Tokens, read_tokens
from tests.serve_app.conftest import Client
from tests.serve_app.world import READER, UNREDACTED, World

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("path", ["/healthz", "/", "/docs", "/openapi.json", "/static/app.js"])
async def test_open_path_needs_no_token(client: Client, path: str) -> None:
    async with client(token=None) as http:
        response = await http.get(path)
    assert response.status_code == 200
    assert READER not in response.text


@pytest.mark.parametrize(
    "path", ["/v1/models", "/v1/suites", "/v1/studies", "/v1/evaluations", "/v1/nothing"]
)
@pytest.mark.parametrize("header", [None, "Bearer wrong-token-0123456789", "Basic abc", "Bearer "])
async def test_closed_path_without_a_token_is_refused(
    client: Client, path: str, header: str | None
) -> None:
    async with client(token=None) as http:
        response = await http.get(path, headers={"Authorization": header} if header else {})
    assert response.status_code == 401
    assert response.headers["WWW-Authenticate"] == "Bearer"
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["type"], error["code"]) == ("authentication_error", "invalid_api_key")


@pytest.mark.parametrize("token", [READER, UNREDACTED])
async def test_token_of_any_scopes_opens(client: Client, token: str) -> None:
    async with client(token=token) as http:
        assert (await http.get("/v1/models")).status_code == 200


async def test_body_without_a_token_is_not_read(client: Client) -> None:
    async with client(token=None) as http:
        response = await http.post("/v1/chat/completions", content=b"not json")
    assert response.status_code == 401


async def test_open_service_is_called_by_a_loopback_name_only(client: Client) -> None:
    async with client(token=None, tokens=None) as http:
        assert (await http.get("/v1/models")).status_code == 200
        for host in ("127.0.0.1:8000", "[::1]:8000", "localhost"):
            assert (await http.get("/v1/models", headers={"Host": host})).status_code == 200
        for host in ("evil.example", "127.0.0.1.evil.example:8000", "10.0.0.1"):
            response = await http.get("/v1/models", headers={"Host": host})
            assert response.status_code == 403, host


def test_token_of_the_environment_comes_as_a_digest_with_scopes(tmp_path: Path) -> None:
    file = TokenFile(tmp_path / "tokens.json")
    [plain] = tokens(file, "a" * 16).given
    assert plain.digest == "0c0beacef8877bbf2416eb00f2b5dc96354e26dd1df5517320459b1236860f8c"
    assert plain.scopes == USUAL
    [scoped] = tokens(file, f"unredacted,read {'b' * 16}").given
    assert scoped.scopes == ("read", "unredacted")


def tokens(file: TokenFile, line: str) -> Tokens:
    found = read_tokens(ServeConfig(), file, {"SAFEMIRAGE_API_TOKEN": line})
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("short", "can be guessed"),
        (f"wizard {'a' * 16}", "'wizard' is none; choose of chat"),
        (f"read {'a' * 16} more", "SCOPE,SCOPE TOKEN"),
        ("   ", "safemirage token create"),
    ],
)
def test_token_that_is_no_token_is_refused(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        tokens(TokenFile(tmp_path / "tokens.json"), line)
    assert "a" * 16 not in str(raised.value)


async def test_token_of_the_storage_holds_until_it_is_revoked_or_expires(
    client: Client, world: World
) -> None:
    file = TokenFile(world.storage.tokens)
    record, token = file.create("eve", ["read"], days=1)
    async with client(token=token) as http:
        assert (await http.get("/v1/models")).status_code == 200
        file.revoke("eve")
        refused = await http.get("/v1/models")
    assert "'eve' is revoked" in refused.json()["error"]["message"]
    _, spent = file.create("eve", ["read"], days=-1)
    async with client(token=spent) as http:
        assert "is expired" in (await http.get("/v1/models")).json()["error"]["message"]
    kept = world.storage.tokens.read_text()
    assert record.digest in kept
    assert token not in kept
    assert stat.S_IMODE(world.storage.tokens.stat().st_mode) == 0o600


def test_token_file_that_others_read_is_refused(tmp_path: Path) -> None:
    file = TokenFile(tmp_path / "tokens.json")
    file.create("eve")
    file.path.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        read_tokens(ServeConfig(), file, {})


def test_service_without_any_valid_token_does_not_start(tmp_path: Path) -> None:
    file = TokenFile(tmp_path / "tokens.json")
    file.create("old", days=-1)
    with pytest.raises(ConfigError, match="SAFEMIRAGE_API_TOKEN"):
        read_tokens(ServeConfig(), file, {})
    assert read_tokens(ServeConfig(auth="none"), file, {}) is None


def test_open_service_beyond_loopback_is_refused() -> None:
    with pytest.raises(ConfigError, match="auth"):
        build_config(ServeConfig, {"host": "0.0.0.0", "auth": "none"})


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.1.2.3", True),
        ("::1", True),
        ("[::1]", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("localhost.evil.example", False),
        ("", False),
    ],
)
def test_loopback_is_told_from_others(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected
