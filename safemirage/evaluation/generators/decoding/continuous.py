"""Calls of a vLLM engine join those that run: one thread steps the engine, and each step serves all that is in it."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from threading import Thread
from typing import Any

Enqueue = Callable[[], list[str]]
"""Gives the engine a call's prompts; their ids. Runs in the engine's thread."""


Hear = Callable[[Any], bool]
"""Is told each output of a call's one prompt as it comes, in the engine's thread; True ends it."""


class _Call:
    def __init__(self, enqueue: Enqueue, hear: Hear | None) -> None:
        self.enqueue = enqueue
        self.hear = hear
        self.ids: list[str] = []
        self.outputs: dict[str, Any] = {}
        self.answers: Future[list[Any]] = Future()


class Engine:
    """The thread of one `vllm.LLM`."""

    def __init__(self, llm: Any) -> None:
        self._llm = llm
        self._new: SimpleQueue[_Call | None] = SimpleQueue()
        self._running: list[_Call] = []
        self._thread = Thread(target=self._run, name="vllm", daemon=True)
        self._thread.start()

    @property
    def running(self) -> int:
        """Calls in the engine."""
        return len(self._running)

    async def answers(self, enqueue: Enqueue, hear: Hear | None = None) -> list[Any]:
        """vLLM's output for each prompt, in order. What `enqueue` raises is raised here; a call that is cancelled
        leaves the engine."""
        call = _Call(enqueue, hear)
        self._new.put(call)
        return await asyncio.wrap_future(call.answers)

    def close(self) -> None:
        """Waits for the calls that run, ends the thread and the engine; calls that wait are cancelled."""
        self._new.put(None)
        self._thread.join()
        while not self._new.empty():
            if (call := self._new.get()) is not None:
                call.answers.cancel()
        self._llm.llm_engine.engine_core.shutdown()

    def _run(self) -> None:
        is_open = True
        while is_open or self._running:
            while is_open and (not self._running or not self._new.empty()):
                call = self._new.get()
                is_open = call is not None
                if call is not None:
                    self._take_in(call)
            self._step()

    def _take_in(self, call: _Call) -> None:
        if call.answers.cancelled():
            return
        try:
            call.ids = call.enqueue()
        except Exception as error:
            _fail(call, error)
            return
        self._running.append(call)

    def _step(self) -> None:
        """Makes one token for every request in the engine."""
        left = [name for call in self._running if call.answers.cancelled() for name in call.ids]
        self._running = [call for call in self._running if not call.answers.cancelled()]
        try:
            if left:
                self._llm.llm_engine.abort_request(left, internal=True)
            outputs = self._llm.llm_engine.step() if self._running else []
        except Exception as error:
            for call in self._running:
                _fail(call, error)
            self._running = []
            return
        self._tell({output.request_id: output for output in outputs})
        finished = {output.request_id: output for output in outputs if output.finished}
        for call in self._running:
            # The engine adds letters of its own to the ids that it gives out, not to those of its outputs.
            names = [name.partition("-")[0] for name in call.ids]
            call.outputs |= {name: finished[name] for name in names if name in finished}
            if len(call.outputs) == len(names) and call.answers.set_running_or_notify_cancel():
                call.answers.set_result([call.outputs[name] for name in names])
        self._running = [call for call in self._running if not call.answers.done()]

    def _tell(self, outputs: dict[str, Any]) -> None:
        """Tells those that listen what is new, and takes out those that have heard enough."""
        enough = []
        for call in self._running:
            if call.hear is None:
                continue
            output = outputs.get(call.ids[0].partition("-")[0])
            if output is not None and call.hear(output) and not output.finished:
                enough.append(call.ids[0])
                if call.answers.set_running_or_notify_cancel():
                    call.answers.set_result([output])
        if enough:
            self._llm.llm_engine.abort_request(enough, internal=True)
            self._running = [call for call in self._running if not call.answers.done()]


def _fail(call: _Call, error: Exception) -> None:
    if call.answers.set_running_or_notify_cancel():
        call.answers.set_exception(error)
