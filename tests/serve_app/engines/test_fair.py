"""Places of an engine are given out by who had least, and a caller that goes away takes none."""

import asyncio

import pytest

from serve_app.engines.fair import FairGate

pytestmark = pytest.mark.anyio


async def served(gate: FairGate, owners: str, log: list[str], cost: float = 10) -> None:
    async def work(owner: str) -> None:
        async with gate.place(owner, cost):
            log.append(owner)
            await asyncio.sleep(0)

    await asyncio.gather(*(work(owner) for owner in owners))


async def test_one_owner_with_many_requests_cannot_starve_another() -> None:
    log: list[str] = []
    await served(FairGate(1), "aaaaaaaaab", log)
    assert log.index("b") <= 2


async def test_owners_have_equal_shares_of_work_not_of_requests() -> None:
    gate, log = FairGate(1), list[str]()
    await asyncio.gather(served(gate, "a" * 12, log, cost=10), served(gate, "b" * 12, log, cost=30))
    # While both want places, three of a's cost what one of b's does.
    assert log[:12].count("a") == 9


async def test_owner_that_was_idle_saved_nothing_up() -> None:
    gate, log = FairGate(1), list[str]()
    await served(gate, "a" * 50, log)
    log.clear()
    await served(gate, "aaaaabbbbb", log)
    assert abs(log[:6].count("a") - log[:6].count("b")) <= 2


async def test_request_that_goes_away_leaves_its_place_to_the_next() -> None:
    gate, log = FairGate(1), list[str]()
    async with gate.place("a", 1):
        waiting = asyncio.create_task(served(gate, "b", log))
        staying = asyncio.create_task(served(gate, "c", log))
        await asyncio.sleep(0)
        waiting.cancel()
    await asyncio.gather(waiting, staying, return_exceptions=True)
    assert log == ["c"]
    assert gate.is_idle
