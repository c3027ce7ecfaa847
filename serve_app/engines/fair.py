"""Places in an engine, given out fairly: whoever had least so far is next, however many others wait.

Start-time fair queueing (Goyal, Vin and Cheng, 1996): each owner has a clock that its work moves on by its cost, and the
request whose owner's clock is furthest behind comes first. One that was idle starts at the clock of what was served
last, so it can save up nothing.
"""

import asyncio
import heapq
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count

from safemirage.config.generators import DecodingConfig
from safemirage.evaluation.types import ChatRequest, Request


class FairGate:
    def __init__(self, places: int) -> None:
        self._places = self._free = places
        self._clock = 0.0
        """Where the request that was served last began."""
        self._ends: dict[str, float] = {}
        """Where the work of each owner ends that is not idle."""
        self._waiting: list[tuple[float, int, asyncio.Future[None]]] = []
        self._numbers = count()

    @property
    def is_idle(self) -> bool:
        return self._free == self._places

    @asynccontextmanager
    async def place(self, owner: str, cost: float) -> AsyncIterator[None]:
        """Holds a place, once it is this owner's turn. One that is cancelled while it waits takes none."""
        begins = max(self._clock, self._ends.get(owner, 0.0))
        self._ends[owner] = begins + cost
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (begins, next(self._numbers), turn))
        self._call()
        try:
            await turn
        except asyncio.CancelledError:
            # Called in the same moment: the place goes to the next.
            if turn.done() and not turn.cancelled():
                self._leave()
            raise
        try:
            yield
        finally:
            self._leave()

    def _leave(self) -> None:
        self._free += 1
        self._call()

    def _call(self) -> None:
        while self._free and self._waiting:
            begins, _, turn = heapq.heappop(self._waiting)
            if turn.done():  # it went away
                continue
            self._free -= 1
            self._clock = begins
            turn.set_result(None)
        # Those that are idle are forgotten: their clocks are behind what is served.
        self._ends = {owner: end for owner, end in self._ends.items() if end > self._clock}


def cost_of(request: Request, decoding: DecodingConfig) -> int:
    """About how many tokens of work a request is: fairness and the queue's bound need no more than the size of it."""
    text = len(request.question) + len(request.system or "") + len(request.prefill)
    if isinstance(request, ChatRequest):
        text += sum(len(turn.text) for turn in request.earlier)
    # Four letters a token in English, and the 576 tokens of LLaVA's image.
    return text // 4 + 576 * len(request.images) + decoding.max_new_tokens
