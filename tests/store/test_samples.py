"""Payloads by key: the first answer wins, any text survives, threads do not lose writes."""

import hashlib
import threading

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from safemirage.store import Store, open_store


def test_samples_put_twice_keep_the_first_answer(store: Store) -> None:
    assert store.samples.generations.put({"a": {"text": "one"}}) == {"a": {"text": "one"}}
    again = store.samples.generations.put({"a": {"text": "two"}, "b": {"text": "three"}})
    assert again == {"a": {"text": "one"}, "b": {"text": "three"}}
    assert store.samples.generations.get(["b", "a", "absent"]) == again


def test_samples_of_generations_and_verdicts_are_kept_apart(store: Store) -> None:
    store.samples.generations.put({"a": {"text": "one"}})
    assert store.samples.verdicts.get(["a"]) == {}


def test_samples_more_than_a_statement_can_name_are_found(store: Store) -> None:
    payloads = {str(index): {"text": str(index)} for index in range(1203)}
    assert store.samples.generations.put(payloads) == payloads
    assert store.samples.generations.get(list(payloads)) == payloads
    assert store.samples.generations.put({}) == {}


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(text=st.text())
def test_samples_text_of_any_characters_comes_back(store: Store, text: str) -> None:
    key = hashlib.sha256(text.encode()).hexdigest()
    store.samples.generations.put({key: {"text": text}})
    assert store.samples.generations.get([key]) == {key: {"text": text}}


def test_samples_text_with_nul_comes_back(store: Store) -> None:
    store.samples.generations.put({"k": {"text": "a\0b c"}})
    assert store.samples.generations.get(["k"])["k"]["text"] == "a\0b c"


def test_samples_written_by_many_threads_agree_on_one_answer(store_url: str) -> None:
    stores = [open_store(store_url) for _ in range(6)]
    barrier = threading.Barrier(6)
    seen: list[dict[str, dict[str, int]]] = []

    def write(index: int) -> None:
        barrier.wait()
        keys = [str(key) for key in range(50)]
        order = keys if index % 2 else keys[::-1]
        seen.append(stores[index].samples.generations.put({key: {"by": index} for key in order}))

    threads = [threading.Thread(target=write, args=(index,)) for index in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for store in stores:
        store.close()
    assert len(seen) == 6
    assert all(answers == seen[0] for answers in seen)


def test_samples_images_are_found_by_digest(store: Store) -> None:
    store.samples.put_images({"d1": b"\x89PNG\0", "d2": b"x"})
    store.samples.put_images({"d1": b"\x89PNG\0"})
    assert store.samples.image("d1") == b"\x89PNG\0"
    assert store.samples.image("absent") is None
