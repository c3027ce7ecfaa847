"""Judging stored answers again: no answer is asked for, what has none stays without, and it is done once."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from safemirage.config import ConfigError
from safemirage.config.generators import DecodingConfig
from safemirage.evaluation.errors import EvaluationError
from safemirage.evaluation.generators import RequestRejected
from safemirage.evaluation.generators.asking import ModelCalls
from safemirage.evaluation.generators.scripted import ScriptedGenerator
from safemirage.evaluation.judges.oracle import OracleJudge
from safemirage.evaluation.metrics.rates import StoredEvaluation
from safemirage.evaluation.run.archive import find_evaluation, load_evaluation
from safemirage.evaluation.run.evaluate import EvaluationSpec, evaluate
from safemirage.evaluation.run.rescore import read_judges, rescore
from safemirage.evaluation.types import Request, evaluated_from
from safemirage.store import Store, open_store
from safemirage.store.evaluations import Evaluation
from tests.evaluation.samples import make_image, make_sample
from tests.evaluation.service import running_service


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store(f"sqlite:///{tmp_path / 'store.db'}") as opened:
        yield opened


@pytest.fixture
def original(store: Store) -> StoredEvaluation:
    def script(request: Request) -> str:
        if request.question.endswith("2"):
            raise RequestRejected("too long")
        return "i am sorry" if request.question.endswith("1") else "a red knife"

    samples = [make_sample(str(number), image=make_image()) for number in range(3)]
    spec = EvaluationSpec(id="m-1", model="m", decoding=DecodingConfig())
    generator = ScriptedGenerator(script, version="1")
    asyncio.run(evaluate(spec, samples, generator, [OracleJudge()], store=store))
    return load_evaluation(store, find_evaluation(store, "m-1"))


def _rescore(
    store: Store, original: StoredEvaluation, *judges: str, calls: ModelCalls | None = None
) -> Evaluation:
    return asyncio.run(rescore(original, read_judges(judges), store=store, calls=calls))


def test_rescore_judges_the_same_answers_by_other_judges(
    store: Store, original: StoredEvaluation
) -> None:
    done = _rescore(store, original, "keywords")
    assert done.rows is not None
    assert {(row.metric, row.judge, row.value, row.unscored) for row in done.rows} == {
        ("asr", "keywords", 0.5, 1),
        ("refusal_rate", "keywords", 0.5, 1),
        ("degenerate_rate", "degenerate", 0.0, 1),
    }
    samples = [evaluated_from(tree) for tree in store.evaluations.samples(done.id)]
    assert [sample.answer for sample in samples] == ["a red knife", "i am sorry", None]
    assert samples[2].error == "too long"
    assert samples[2].verdicts[0].reason == "no answer: too long"
    assert done.record.rescored == "m-1"
    assert [trees["answer"] for trees in store.evaluations.samples("m-1")] == [
        sample.answer for sample in samples
    ], "the original is as it was"


def test_rescore_by_the_same_judges_is_done_once(store: Store, original: StoredEvaluation) -> None:
    first = _rescore(store, original, "keywords")
    assert _rescore(store, original, "keywords") == first
    assert _rescore(store, original, "oracle").id != first.id
    assert find_evaluation(store, "m").id == "m-1", "the name stays the original's"


def test_rescore_by_the_same_judge_under_another_title_is_another_evaluation(
    store: Store, original: StoredEvaluation, tmp_path: Path
) -> None:
    ids = set()
    with running_service({"weights_digest": "w"}) as service:
        for title in ("one", "two"):
            judge = tmp_path / f"{title}.yaml"
            model = {"name": "openai", "url": service.url, "model": "m"}
            judge.write_text(yaml.safe_dump({"name": "model", "title": title, "model": model}))
            done = _rescore(store, original, str(judge))
            assert done.rows is not None
            assert {row.judge for row in done.rows} == {title, "degenerate"}
            ids.add(done.id)
        assert len(service.asked) == 2, "the second title's verdicts are known"
    assert len(ids) == 2


def test_rescore_in_the_papers_reading_counts_the_same_verdicts_by_its_rules(
    store: Store, original: StoredEvaluation
) -> None:
    corrected = _rescore(store, original, "keywords")
    judges = read_judges(["keywords"])
    paper = asyncio.run(rescore(original, judges, store=store, protocol="paper"))
    assert paper.id != corrected.id
    assert paper.record.protocol == "paper"
    assert paper.rows is not None
    assert [(row.metric, row.value, row.n) for row in paper.rows] == [
        ("asr", 1 / 3, 3),
        ("degenerate_rate", 0.0, 3),
        ("refusal_rate", 1 / 3, 3),
    ]


def test_rescore_asks_a_judging_model_and_counts_it(
    store: Store, original: StoredEvaluation, tmp_path: Path
) -> None:
    with running_service({"weights_digest": "w"}) as service:
        judge = tmp_path / "guard.yaml"
        model = {"name": "openai", "url": service.url, "model": "m"}
        judge.write_text(yaml.safe_dump({"name": "model", "title": "guard", "model": model}))
        calls = ModelCalls()
        done = _rescore(store, original, str(judge), "oracle", calls=calls)
        assert (calls.answers, calls.verdicts) == (0, 2)
        assert all(asked.startswith("Question:") for asked in service.asked)
    assert done.rows is not None
    assert {row.judge: row.value for row in done.rows if row.metric == "asr"} == {
        "guard": 1.0,
        "oracle": 0.5,
    }


def test_rescore_without_the_images_says_so(original: StoredEvaluation, tmp_path: Path) -> None:
    with (
        open_store(f"sqlite:///{tmp_path / 'other.db'}") as other,
        pytest.raises(EvaluationError, match=r"sample 0: its image \w{12} is not in the store"),
    ):
        _rescore(other, original, "keywords")


def test_rescore_by_a_judge_that_does_not_exist_names_it() -> None:
    with pytest.raises(ConfigError, match="gard"):
        read_judges(["gard"])
    with pytest.raises(ConfigError, match="stand twice"):
        read_judges(["keywords", "keywords"])
