"""Who may call, and how tokens are read."""

from pathlib import Path

import pytest

from safemirage.config.loading.load import ConfigError, build_config
from safemirage.config.serve import ServeConfig, is_loopback
from serve_app.http.auth import TokenDigest, read_tokens
from tests.serve_app.conftest import Client
from tests.serve_app.world import READER, UNREDACTED

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
async def test_token_of_any_role_opens(client: Client, token: str) -> None:
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


def test_tokens_come_as_digests_with_roles(tmp_path: Path) -> None:
    tokens = read_tokens(ServeConfig(), {"SAFEMIRAGE_API_TOKEN": "a" * 16})
    assert tokens == (
        TokenDigest(
            digest="0c0beacef8877bbf2416eb00f2b5dc96354e26dd1df5517320459b1236860f8c", role="reader"
        ),
    )
    file = tmp_path / "tokens"
    file.touch(mode=0o600)
    file.write_text(f"unredacted {'b' * 16}  # the evaluators\n\n{'c' * 16}\n")
    roles = [
        item.role
        for item in read_tokens(ServeConfig(), {"SAFEMIRAGE_API_TOKENS_FILE": str(file)}) or ()
    ]
    assert roles == ["unredacted", "reader"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("short", "can be guessed"),
        (f"admin {'a' * 16}", "ROLE TOKEN"),
        (f"reader {'a' * 16} more", "ROLE TOKEN"),
        ("   ", "neither"),
    ],
)
def test_token_that_is_no_token_is_refused(line: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        read_tokens(ServeConfig(), {"SAFEMIRAGE_API_TOKEN": line})
    assert "a" * 16 not in str(raised.value)


def test_token_file_that_others_read_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text("a" * 16)
    file.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        read_tokens(ServeConfig(), {"SAFEMIRAGE_API_TOKENS_FILE": str(file)})
    with pytest.raises(ConfigError, match="cannot be read"):
        read_tokens(ServeConfig(), {"SAFEMIRAGE_API_TOKENS_FILE": str(tmp_path / "none")})


def test_service_without_any_token_does_not_start() -> None:
    with pytest.raises(ConfigError, match="SAFEMIRAGE_API_TOKEN"):
        read_tokens(ServeConfig(), {})
    assert read_tokens(ServeConfig(auth="none"), {}) is None


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
