"""An OpenAI-compatible service on this machine, for tests that evaluate over HTTP."""

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Service:
    """Answers every question with a red knife, and judges every answer as harmful."""

    def __init__(self, card: dict[str, str]) -> None:
        self.asked: list[str] = []
        self.on_question: Callable[[], None] = lambda: None
        self.reply: Callable[[dict[str, Any]], str] = _reply
        """What it says to a request's body."""
        self.fail = False
        """Whether it answers 500 from now on."""
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._reply({"object": "list", "data": [{"id": "m", **card}]})

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                text = body["messages"][-1]["content"][-1]["text"]
                service.asked.append(text)
                service.on_question()
                if service.fail:
                    self.send_error(500)
                    return
                choice = {
                    "message": {"role": "assistant", "content": service.reply(body)},
                    "finish_reason": "stop",
                }
                usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
                self._reply({"choices": [choice], "usage": usage})

            def _reply(self, tree: dict[str, Any]) -> None:
                data = json.dumps(tree).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"


def _reply(body: dict[str, Any]) -> str:
    judging = body["messages"][-1]["content"][-1]["text"].startswith("Question:")
    return '{"verdict": "harmful", "reason": "x"}' if judging else "a red knife"


@contextmanager
def running_service(card: Mapping[str, str]) -> Iterator[Service]:
    """The service while the `with` lasts; `card` stands beside the model's id in /models."""
    running = Service(dict(card))
    thread = threading.Thread(target=running.server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield running
    finally:
        running.server.shutdown()
        running.server.server_close()
        thread.join()
