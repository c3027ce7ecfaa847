"""Leases: one holder at a time, takeover after expiry, loss that is noticed."""

import threading
import time

import pytest

from safemirage.store import LeaseLost, Store, open_store


def test_lease_of_a_live_holder_is_refused_to_others(store: Store) -> None:
    lease = store.leases.acquire("work", ttl_s=30)
    assert lease is not None
    with lease:
        assert store.leases.acquire("work", ttl_s=30) is None
        assert store.leases.acquire("other work", ttl_s=30) is not None


def test_lease_given_back_can_be_taken_at_once(store: Store) -> None:
    first = store.leases.acquire("work", ttl_s=30)
    assert first is not None
    with first:
        pass
    assert store.leases.acquire("work", ttl_s=30) is not None


def test_lease_without_heartbeats_is_taken_over_and_its_holder_notices(store: Store) -> None:
    silent = store.leases.acquire("work", ttl_s=0.2)
    assert silent is not None
    time.sleep(0.4)
    taken = store.leases.acquire("work", ttl_s=30)
    assert taken is not None
    silent.beat()
    assert silent.lost
    with pytest.raises(LeaseLost, match="work"):
        silent.check()
    silent.release()
    again = store.leases.acquire("work", ttl_s=30)
    assert again is None, "a late release must not free the new holder's lease"


def test_lease_with_heartbeats_outlives_its_ttl(store: Store) -> None:
    lease = store.leases.acquire("work", ttl_s=1.0)
    assert lease is not None
    with lease:
        deadline = time.monotonic() + 2.5
        while time.monotonic() < deadline:
            assert store.leases.acquire("work", ttl_s=30) is None
            time.sleep(0.1)
        assert not lease.lost


def test_lease_wanted_by_many_threads_is_given_to_one(store_url: str) -> None:
    stores = [open_store(store_url) for _ in range(8)]
    barrier = threading.Barrier(8)
    won = []

    def contend(store: Store) -> None:
        barrier.wait()
        lease = store.leases.acquire("work", ttl_s=30)
        if lease is not None:
            won.append(lease.owner)

    threads = [threading.Thread(target=contend, args=(store,)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for store in stores:
        store.close()
    assert len(won) == 1


@pytest.mark.parametrize("ttl_s", [0, -1.0])
def test_lease_without_lifetime_is_refused(store: Store, ttl_s: float) -> None:
    with pytest.raises(ValueError, match="ttl_s"):
        store.leases.acquire("work", ttl_s=ttl_s)
