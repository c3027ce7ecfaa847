"""An evaluation by its config, against a real HTTP service on this machine."""

import asyncio
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from safemirage.config.evaluate import EvaluateConfig
from safemirage.config.loading.load import build_config
from safemirage.evaluation.generators import GeneratorUnavailable
from safemirage.evaluation.generators.asking import ModelCalls
from safemirage.evaluation.reports.terminal import finished_result, print_results
from safemirage.evaluation.run.evaluate import TooManyUnscored
from safemirage.evaluation.run.process import run_evaluation
from safemirage.store import Store, open_store
from safemirage.store.evaluations import Evaluation
from tests.evaluation.samples import make_image, sample_record, write_suite
from tests.evaluation.service import Service, running_service
from tests.vlguard_files import unsafe_record


@pytest.fixture(params=[{}, {"weights_digest": "w1"}], ids=["anonymous", "with digest"])
def service(request: pytest.FixtureRequest) -> Iterator[Service]:
    with running_service(request.param) as running:
        yield running


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store(f"sqlite:///{tmp_path / 'store.db'}") as opened:
        yield opened


def _config(url: str, suite: Path, **fields: Any) -> EvaluateConfig:
    model = {"name": "openai", "url": url, "model": "m", "attempts": 2}
    judges = [
        {"name": "oracle"},
        {"name": "keywords"},
        {"name": "model", "title": "guard", "model": model},
    ]
    tree = {"name": "t", "model": model, "suite": str(suite), "judges": judges, **fields}
    return build_config(EvaluateConfig, tree)


def test_run_evaluation_twice_asks_again_only_where_the_weights_are_unknown(
    service: Service, store: Store, tmp_path: Path
) -> None:
    suite = write_suite(tmp_path / "suite", [sample_record(name) for name in "abc"])
    config = _config(service.url, suite)
    first = asyncio.run(run_evaluation(config, store=store))
    assert (first.state, first.done) == ("finished", 3)
    assert first.rows is not None
    assert {(row.judge, row.metric): row.value for row in first.rows} == {
        ("oracle", "asr"): 1.0,
        ("oracle", "degenerate_rate"): 0.0,
        ("keywords", "asr"): 1.0,
        ("guard", "asr"): 1.0,
        ("keywords", "refusal_rate"): 0.0,
        ("guard", "refusal_rate"): 0.0,
    }
    asked = len(service.asked)
    assert asked == 6
    second = asyncio.run(run_evaluation(config, store=store))
    assert second.rows == first.rows
    if "weights" in str(first.record.generator):
        assert (second.id, len(service.asked)) == (first.id, asked)
    else:
        assert second.id != first.id
        assert len(service.asked) == 2 * asked


def test_run_evaluation_draws_questions_and_keeps_another_draw_apart(
    service: Service, store: Store, tmp_path: Path
) -> None:
    suite = write_suite(tmp_path / "suite", [sample_record(name) for name in "abcd"])
    two = asyncio.run(run_evaluation(_config(service.url, suite, sample=2), store=store))
    all_ = asyncio.run(run_evaluation(_config(service.url, suite), store=store))
    assert (two.done, all_.done) == (2, 4)
    assert two.id != all_.id


def test_run_evaluation_cancelled_before_is_taken_up_when_asked_for_again(
    service: Service, store: Store, tmp_path: Path
) -> None:
    suite = write_suite(tmp_path / "suite", [sample_record(name) for name in "abcd"])
    config = _config(service.url, suite, batch_size=2)

    def cancel(_done: int, _total: int) -> None:
        (evaluation,) = store.evaluations.list()
        store.evaluations.cancel(evaluation.id)

    cancelled = asyncio.run(run_evaluation(config, store=store, on_progress=cancel))
    assert (cancelled.state, cancelled.done) == ("cancelled", 2)
    again = asyncio.run(run_evaluation(config, store=store))
    assert (again.state, again.done) == ("finished", 4)


def test_run_evaluation_of_a_model_that_is_not_there_records_nothing(
    store: Store, tmp_path: Path
) -> None:
    suite = write_suite(tmp_path / "suite", [sample_record(name) for name in "abc"])
    with pytest.raises(GeneratorUnavailable):
        asyncio.run(run_evaluation(_config("http://127.0.0.1:9/v1", suite), store=store))
    assert store.evaluations.list() == []


def test_run_evaluation_of_vlguards_files_in_both_readings(
    service: Service, store: Store, tmp_path: Path
) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "u.png").write_bytes(make_image().data)
    record = unsafe_record("u")
    (tmp_path / "test.json").write_text(json.dumps([record]))
    rows = [
        {**record, "instr-resp": [{"instruction": f"What {attempt}?", "response": "no"}]}
        for attempt in range(3)
    ]
    (tmp_path / "what.json").write_text(json.dumps(rows))
    what = {"attack": "what", "subset": "unsafe", "path": str(tmp_path / "what.json")}
    vlguard = {
        "test": str(tmp_path / "test.json"),
        "images": str(tmp_path),
        "subsets": ["unsafe"],
        "rewrites": [what],
    }
    model = {"name": "openai", "url": service.url, "model": "m"}

    def ended(protocol: str, judge: str, **options: object) -> Evaluation:
        tree = {
            "model": model,
            "vlguard": vlguard,
            "judges": [{"name": judge, "model": model}],
            "protocol": protocol,
            **options,
        }
        return asyncio.run(run_evaluation(build_config(EvaluateConfig, tree), store=store))

    def rates(done: Evaluation) -> dict[tuple[str, str], tuple[float | None, int, int]]:
        rows = list(done.rows or ())
        assert (done.state, done.done) == ("finished", 4)
        return {
            (row.condition, row.metric): (row.value, row.n, row.defaulted)
            for row in rows
            if row.metric in ("asr", "irrelevant_rate")
        }

    assert rates(ended("corrected", "model")) == {
        ("unsafe_plain", "asr"): (1.0, 1, 0),
        ("unsafe_what", "asr"): (1.0, 1, 0),
    }
    # The judge's JSON is no verdict to the original's parser, which takes it for irrelevant: no ASR of 0 % in silence.
    for protocol in ("corrected", "paper"):
        with pytest.raises(TooManyUnscored, match="'relevance' left 4 of 4 samples unscored"):
            ended(protocol, "relevance")
    allowed = ended("paper", "relevance", max_unscored=1.0)
    assert rates(allowed) == {
        ("unsafe_plain", "asr"): (0.0, 1, 1),
        ("unsafe_plain", "irrelevant_rate"): (1.0, 1, 1),
        ("unsafe_what", "asr"): (0.0, 1, 3),
        ("unsafe_what", "irrelevant_rate"): (1.0, 3, 3),
    }
    console = Console(width=80, record=True, file=io.StringIO())
    print_results(console, [finished_result(allowed, ModelCalls())])
    screen = " ".join(console.export_text().split())
    assert "3 by default" in screen
    assert (
        "unsafe_what, judge relevance: 3 of the answers are counted by the protocol's rule"
        in screen
    )
    corrected = rates(ended("corrected", "relevance", max_unscored=1.0))
    assert corrected["unsafe_what", "asr"] == (None, 0, 0)
