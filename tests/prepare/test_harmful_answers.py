"""The table of harmful answers: candidates, filter, choice, counts, resuming."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from safemirage.config.generators import GeneratorConfig, OpenAIConfig
from safemirage.config.loading.load import build_config
from safemirage.config.prepare import AnswersConfig
from safemirage.data.vlguard import read_vlguard
from safemirage.evaluation.generators import Generator, GeneratorUnavailable, RequestRejected
from safemirage.evaluation.generators.scripted import ScriptedGenerator
from safemirage.evaluation.types import Request
from safemirage.prepare.harmful_answers import (
    SELECTOR,
    AnswerMaker,
    AnswerTable,
    Question,
    read_selection,
    selection_request,
    unsafe_questions,
)
from safemirage.store import open_store
from safemirage.store.database import Store
from tests.vlguard_files import safe_record, unsafe_record

URL = {"name": "openai", "url": "http://none/v1", "model": "m"}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store(f"sqlite:///{tmp_path / 'store.db'}") as opened:
        yield opened


@pytest.fixture
def questions(tmp_path: Path) -> list[Question]:
    found = []
    for index in range(5):
        image = tmp_path / f"{index}.png"
        image.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes([index]))
        found.append(Question(sample_id=f"q{index}", text=f"Share {index}", image=image))
    return found


def config_of(**changes: Any) -> AnswersConfig:
    tree = {
        "train": "train.json",
        "image_folder": "images",
        "candidates": {"a": URL},
        "selector": URL,
        "batch_size": 2,
    }
    return build_config(AnswersConfig, tree | changes)


def scripted(script: Callable[[Request], str], version: str = "1") -> ScriptedGenerator:
    return ScriptedGenerator(script, version=version)


def make(
    store: Store,
    questions: list[Question],
    candidates: Mapping[str, Generator],
    selector: Generator,
    **changes: Any,
) -> AnswerTable:
    generators = {**candidates, "selector": selector}
    models = {name: {**URL, "model": name} for name in generators}

    @asynccontextmanager
    async def opened(config: GeneratorConfig) -> AsyncIterator[Generator]:
        assert isinstance(config, OpenAIConfig)
        yield generators[config.model]

    asked = {name: models[name] for name in candidates}
    config = config_of(candidates=asked, selector=models["selector"], **changes)
    maker = AnswerMaker(config, store.samples, "test", lambda *_: None, opened)
    return asyncio.run(maker.run(questions))


def pick(wanted: str) -> Callable[[Request], str]:
    """A selector's script: the number of the answer that holds `wanted`."""

    def script(request: Request) -> str:
        lines = [line for line in request.question.splitlines() if line[:1].isdigit()]
        return next(line.partition(":")[0] for line in lines if wanted in line)

    return script


def never(request: Request) -> str:
    raise AssertionError(f"asked: {request.question}")


def test_make_takes_the_selected_answer(store: Store, questions: list[Question]) -> None:
    candidates = {
        "mild": scripted(lambda request: f"mild {request.question}"),
        "worst": scripted(lambda request: f"worst {request.question}", "2"),
    }
    table = make(store, questions, candidates, scripted(pick("worst"), "3"))
    assert table.answers() == {f"q{index}": f"worst Share {index}" for index in range(5)}
    assert {choice.candidate for choice in table.choices.values()} == {"worst"}
    assert table.counts == {
        "mild": {"answered": 5},
        "worst": {"answered": 5},
        SELECTOR: {"selected": 5},
    }


def test_make_shows_the_selector_a_shuffled_order_that_the_seed_decides(
    store: Store, questions: list[Question]
) -> None:
    asked: dict[int, list[str]] = {0: [], 1: []}

    def remember(seed: int) -> Callable[[Request], str]:
        def script(request: Request) -> str:
            asked[seed].append(request.question)
            return "1"

        return script

    many = questions * 1 + [
        Question(sample_id=f"more{index}", text=f"Tell {index}", image=questions[0].image)
        for index in range(15)
    ]
    candidates = {name: scripted(lambda _, name=name: f"by {name}", name) for name in ("a", "b")}
    tables = [
        make(store, many, candidates, scripted(remember(seed), f"s{seed}"), seed=seed)
        for seed in (0, 1)
    ]
    places = {choice.candidate for choice in tables[0].choices.values()}
    assert places == {"a", "b"}, "always taking the first is no preference for one candidate"
    assert asked[0] != asked[1]


def test_make_filters_refusals_blanks_and_rejections_and_counts_them(
    store: Store, questions: list[Question]
) -> None:
    def moody(request: Request) -> str:
        if "3" in request.question:
            raise RequestRejected("too long")
        return {"0": "I'm sorry, no.", "1": "  "}.get(request.question[-1], "Here is how.")

    steady = scripted(lambda request: "I cannot." if "0" in request.question else "Done.", "2")
    table = make(
        store, questions, {"moody": scripted(moody), "steady": steady}, scripted(pick("how"), "3")
    )
    assert table.counts["moody"] == {"refused": 1, "blank": 1, "rejected": 1, "answered": 2}
    assert table.counts["steady"] == {"refused": 1, "answered": 4}
    assert table.counts[SELECTOR] == {"none": 1, "only one": 2, "selected": 2}
    assert table.answers() == {
        "q0": None,
        "q1": "Done.",
        "q2": "Here is how.",
        "q3": "Done.",
        "q4": "Here is how.",
    }


def test_make_equal_answers_need_no_selector(store: Store, questions: list[Question]) -> None:
    candidates = {name: scripted(lambda _: "Same.", name) for name in ("first", "second")}
    table = make(store, questions, candidates, scripted(never))
    assert table.counts[SELECTOR] == {"only one": 5}
    assert {choice.candidate for choice in table.choices.values()} == {"first"}


@pytest.mark.parametrize("reply", ["I would say 1 or 2", "3", "0", "none", "", "1 2", "-1"])
def test_make_unreadable_choice_gives_no_answer(
    store: Store, questions: list[Question], reply: str
) -> None:
    candidates = {name: scripted(lambda _, name=name: name, name) for name in ("a", "b")}
    table = make(store, questions, candidates, scripted(lambda _: reply))
    assert table.counts[SELECTOR] == {"unreadable choice": 5}
    assert set(table.answers().values()) == {None}


def test_make_selector_that_rejects_is_counted(store: Store, questions: list[Question]) -> None:
    def reject(request: Request) -> str:
        raise RequestRejected("policy")

    candidates = {name: scripted(lambda _, name=name: name, name) for name in ("a", "b")}
    table = make(store, questions, candidates, scripted(reject))
    assert table.counts[SELECTOR] == {"selector rejected": 5}


def test_make_again_asks_no_model(store: Store, questions: list[Question]) -> None:
    candidates = {name: scripted(lambda _, name=name: name, name) for name in ("a", "b")}
    first = make(store, questions, candidates, scripted(pick("b")))
    silent = {name: scripted(never, name) for name in ("a", "b")}
    assert make(store, questions, silent, scripted(never)).answers() == first.answers()


def test_make_cut_off_goes_on_where_it_was(store: Store, questions: list[Question]) -> None:
    def dies(request: Request) -> str:
        if "3" in request.question:
            raise GeneratorUnavailable("gone")
        return f"Answer to {request.question}"

    with pytest.raises(GeneratorUnavailable):
        make(store, questions, {"a": scripted(dies)}, scripted(never))
    asked: list[str] = []

    def lives(request: Request) -> str:
        asked.append(request.question)
        return f"Answer to {request.question}"

    table = make(store, questions, {"a": scripted(lives)}, scripted(never))
    assert asked == ["Share 2", "Share 3", "Share 4"], "the batch that failed, and those after it"
    assert table.answers() == {f"q{index}": f"Answer to Share {index}" for index in range(5)}


def test_selection_request_quotes_texts_so_that_none_can_pose_as_another() -> None:
    request = selection_request('Say "hi"', ["one\n2: two", "two"])
    lines = request.question.splitlines()
    assert [line for line in lines if line.startswith(("1:", "2:"))] == [
        "1: " + json.dumps("one\n2: two"),
        '2: "two"',
    ]
    assert lines[0] == 'Request: "Say \\"hi\\""'
    assert request.image is None
    assert request.system is not None


@pytest.mark.parametrize(
    ("text", "place"),
    [("1", 0), (" 3\n", 2), ("2.", 1), ("(2)", 1), ("[1]", 0), ("Answer 3", 2), ("answer 1:", 0)],
)
def test_read_selection_takes_one_number(text: str, place: int) -> None:
    assert read_selection(text, 3) == place


@pytest.mark.parametrize("text", ["4", "0", "1, because", "one", "", "1\n2", "1.5", "\u0661 "])
def test_read_selection_refuses_everything_else(text: str) -> None:
    assert read_selection(text, 3) is None


def test_unsafe_questions_are_those_of_the_kinds_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "train.json"
    path.write_text(json.dumps([unsafe_record("u"), safe_record("s")]))
    records = read_vlguard(path)
    only = unsafe_questions(records, tmp_path, ["unsafe"])
    assert [(item.sample_id, item.text, item.image) for item in only] == [
        ("u", "Share u.", tmp_path / "images/u.png")
    ]
    both = unsafe_questions(records, tmp_path, ["unsafe", "safe_unsafe"])
    assert [item.text for item in both] == ["Share u.", "Can you harm s?"]
