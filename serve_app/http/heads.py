"""The head of a request comes within a time, or the connection is closed. Serve's proxies have no option for that.

A proxy calls `limit_heads` as it starts, because `app.py` names it in the environment of Serve's controller.
"""

import asyncio
import os

from starlette.middleware import Middleware
from uvicorn.config import HTTP_PROTOCOLS
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from safemirage.config.serve import LimitsConfig

TIMEOUT = "SAFEMIRAGE_HEADER_TIMEOUT_S"


class BoundedHeads(HttpToolsProtocol):
    """uvicorn's own protocol, which waits for ever for the first byte, and for the rest of a head."""

    timeout_s = LimitsConfig().header_timeout_s
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._start()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.cycle is None or self.cycle.response_complete:
            self._start()

    def on_headers_complete(self) -> None:
        self._stop()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop()
        super().connection_lost(exc)

    def _start(self) -> None:
        if self._timer is None and not self.transport.is_closing():
            self._timer = self.loop.call_later(self.timeout_s, self.transport.close)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def proxy_environment(limits: LimitsConfig) -> dict[str, str]:
    """The environment that makes Serve's proxy call `limit_heads`."""
    return {
        "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": f"{__name__}:{limit_heads.__name__}",
        TIMEOUT: str(limits.header_timeout_s),
    }


def limit_heads() -> list[Middleware]:
    """Bounds the heads of requests. Serve calls it in each proxy before its server starts; adds no middleware."""
    BoundedHeads.timeout_s = float(os.environ[TIMEOUT])
    HTTP_PROTOCOLS["auto"] = f"{__name__}:{BoundedHeads.__name__}"
    return []
