"""Images by URL, from a real HTTP server on the loopback."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from safemirage.config.loading.load import ConfigError, build_config
from safemirage.config.serve import LimitsConfig, ServeConfig
from serve_app.http.errors import ApiError
from serve_app.http.images import origin_of, read_image
from tests.serve_app.conftest import Client
from tests.serve_app.world import MODEL, World, png

pytestmark = pytest.mark.anyio
IMAGE = png(5, 7)


class _Pictures(BaseHTTPRequestHandler):
    """/red.png is an image, /large.png endless, /moved.png a redirect to /red.png, /slow.png never answers."""

    def do_GET(self) -> None:
        match self.path:
            case "/red.png":
                self._send(200, IMAGE)
            case "/large.png":
                self.send_response(200)
                self.end_headers()
                while not self.server.stopped.is_set():  # type: ignore[attr-defined]
                    try:
                        self.wfile.write(bytes(1024))
                    except OSError:
                        return
            case "/moved.png":
                self.send_response(302)
                self.send_header("Location", "/red.png")
                self.end_headers()
            case "/slow.png":
                self.server.stopped.wait(20)  # type: ignore[attr-defined]
            case _:
                self._send(404, b"")

    def _send(self, status: int, data: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def origin() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Pictures)
    server.daemon_threads = True
    server.stopped = threading.Event()  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.stopped.set()  # type: ignore[attr-defined]
    server.shutdown()
    server.server_close()
    thread.join()


def limits(origin: str, *, image_bytes: int = 100_000) -> LimitsConfig:
    return LimitsConfig(image_origins=(origin,), image_bytes=image_bytes, image_timeout_s=0.5)


def refusal(url: str, allowed: LimitsConfig) -> ApiError:
    with pytest.raises(ApiError) as caught:
        read_image(url, limits=allowed, param="image")
    return caught.value


async def test_chat_takes_an_image_from_an_allowed_origin(
    client: Client, world: World, origin: str
) -> None:
    parts = [
        {"type": "image_url", "image_url": {"url": f"{origin}/red.png"}},
        {"type": "text", "text": "what is this"},
    ]
    body = {"model": MODEL, "messages": [{"role": "user", "content": parts}]}
    async with client(limits=limits(origin)) as http:
        response = await http.post("/v1/chat/completions", json=body)
    assert response.status_code == 200
    [(_, request, _)] = world.engines.requests
    assert request.image is not None
    assert request.image.data == IMAGE


def test_no_origin_is_allowed_by_default(origin: str) -> None:
    error = refusal(f"{origin}/red.png", LimitsConfig())
    assert (error.status, error.code) == (400, "remote_image_refused")
    assert "image_origins" in error.message


@pytest.mark.parametrize(
    "dressed_up",
    [
        "{origin}.example.org/red.png",
        "http://127.0.0.1:{port}@localhost:9/red.png",
        "http://localhost:{port}/red.png",
        "https://127.0.0.1:{port}/red.png",
        "http://127.0.0.1/red.png",
        "file:///etc/passwd",
        "ftp://127.0.0.1:{port}/red.png",
    ],
)
def test_another_origin_than_the_allowed_is_refused(origin: str, dressed_up: str) -> None:
    url = dressed_up.format(origin=origin, port=origin.rpartition(":")[2])
    assert refusal(url, limits(origin)).code == "remote_image_refused"


@pytest.mark.parametrize(
    ("path", "status", "says"),
    [
        ("/moved.png", 400, "answered 302"),
        ("/missing.png", 400, "answered 404"),
        ("/slow.png", 400, "ReadTimeout"),
        ("/large.png", 413, "over the limit of 5000 bytes"),
    ],
)
def test_what_is_no_image_in_time_is_refused(
    origin: str, path: str, status: int, says: str
) -> None:
    error = refusal(f"{origin}{path}", limits(origin, image_bytes=5000))
    assert error.status == status
    assert says in error.message


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("https://Example.org/a?b#c", "https://example.org"),
        ("https://example.org:443/a", "https://example.org"),
        ("http://example.org:8080", "http://example.org:8080"),
        ("http://[::1]:80/a", "http://[::1]"),
        ("http://user@example.org/a", None),
        ("data:image/png;base64,aGk=", None),
        ("http://", None),
    ],
)
def test_origin_of_a_url(url: str, origin: str | None) -> None:
    assert origin_of(url) == origin


@pytest.mark.parametrize("origin", ["example.org", "https://example.org/pictures", "ftp://a.org"])
def test_config_refuses_what_is_no_origin(origin: str) -> None:
    with pytest.raises(ConfigError, match=r"limits\.image_origins"):
        build_config(ServeConfig, {"limits": {"image_origins": [origin]}})
