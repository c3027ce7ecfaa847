"""Evaluations end to end over a real store: nothing is asked twice, nothing is lost, nothing is made up."""

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from safemirage.config.generators import DecodingConfig
from safemirage.config.judges import JudgePromptConfig
from safemirage.evaluation.generators import GeneratorUnavailable, RequestRejected
from safemirage.evaluation.generators.scripted import Script, ScriptedGenerator
from safemirage.evaluation.judges import Judge
from safemirage.evaluation.judges.model import ModelJudge
from safemirage.evaluation.judges.oracle import OracleJudge
from safemirage.evaluation.judges.rules import KeywordsJudge
from safemirage.evaluation.run.evaluate import EvaluationSpec, TooManyUnscored, evaluate
from safemirage.evaluation.types import Request, Sample, evaluated_from
from safemirage.store import Store, open_store
from safemirage.store.evaluations import Evaluation, IdempotencyConflict
from safemirage.store.records import EvaluationRecord
from tests.evaluation.samples import make_image, make_sample

WORKER = Path(__file__).with_name("worker.py")
ROOT = Path(__file__).resolve().parents[3]
WORD = JudgePromptConfig(kind="word", labels={"bad": "comply", "good": "other"})


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store(f"sqlite:///{tmp_path / 'store.db'}") as opened:
        yield opened


def _samples(count: int = 6) -> list[Sample]:
    return [make_sample(str(index), image=make_image()) for index in range(count)]


def _spec(name: str = "e", **fields: Any) -> EvaluationSpec:
    given = {
        "id": name,
        "model": "m",
        "decoding": DecodingConfig(max_new_tokens=8),
        "batch_size": 4,
    }
    return EvaluationSpec(**{**given, **fields})


def _generator(
    script: Script = lambda request: "a red knife", version: str = "1"
) -> ScriptedGenerator:
    return ScriptedGenerator(script, version=version)


def _run(
    store: Store,
    generator: ScriptedGenerator,
    *judges: Judge,
    spec: EvaluationSpec | None = None,
    samples: list[Sample] | None = None,
) -> Evaluation:
    return asyncio.run(
        evaluate(
            spec or _spec(),
            _samples() if samples is None else samples,
            generator,
            judges or [OracleJudge(), KeywordsJudge()],
            store=store,
        )
    )


def test_evaluate_answers_judges_and_counts_every_condition(store: Store) -> None:
    def script(request: Request) -> str:
        return "i am sorry" if request.question.endswith("5") else "a red knife"

    generator = _generator(script)
    done = _run(store, generator)
    assert (done.state, done.done, done.total, done.error) == ("finished", 6, 6, None)
    assert generator.batches == [4, 2]
    assert done.rows is not None
    found = {(row.metric, row.judge): (row.value, row.n) for row in done.rows}
    assert found == {
        ("asr", "oracle"): (pytest.approx(5 / 6), 6),
        ("degenerate_rate", "oracle"): (0.0, 6),
        ("asr", "keywords"): (pytest.approx(5 / 6), 6),
        ("refusal_rate", "keywords"): (pytest.approx(1 / 6), 6),
    }
    samples = [evaluated_from(tree) for tree in store.evaluations.samples("e")]
    assert [sample.sample_id for sample in samples] == list("012345")
    assert samples[5].answer == "i am sorry"
    assert [verdict.label for verdict in samples[5].verdicts] == ["refuse", "refuse"]
    assert samples[0].image == make_image().digest
    assert store.samples.image(make_image().digest) == make_image().data


def test_evaluate_again_calls_neither_model_nor_judging_model(store: Store) -> None:
    judging = ScriptedGenerator(lambda _: "bad", version="1")
    first = _run(store, _generator(), ModelJudge("guard", WORD, judging))
    assert judging.batches == [4, 2]
    again, judging_again = _generator(), ScriptedGenerator(lambda _: "bad", version="1")
    second = _run(store, again, ModelJudge("guard", WORD, judging_again), spec=_spec("other"))
    assert (again.batches, judging_again.batches) == ([], [])
    assert second.rows == first.rows
    same = _run(store, again, spec=_spec())
    assert same == first


def test_evaluate_with_other_decoding_weights_or_prompt_asks_again(store: Store) -> None:
    _run(store, _generator())
    for name, spec, version in (
        ("decoding", _spec("a", decoding=DecodingConfig(max_new_tokens=9)), "1"),
        ("system", _spec("b", system="be kind"), "1"),
        ("weights", _spec("c"), "2"),
    ):
        other = _generator(version=version)
        _run(store, other, spec=spec)
        assert sum(other.batches) == 6, name
    greedy = _generator()
    seeded = _spec("d", decoding=DecodingConfig(max_new_tokens=8, seed=9))
    _run(store, greedy, spec=seeded)
    assert greedy.batches == [], "a greedy answer does not depend on the seed"


def test_evaluate_of_a_model_that_cannot_tell_its_weights_reuses_nothing(store: Store) -> None:
    class Anonymous(ScriptedGenerator):
        @property
        def key(self) -> dict[str, str]:
            return {**super().key, "scope": "evaluation"}

    for name in ("a", "b"):
        generator = Anonymous(lambda _: "x", version="1")
        _run(store, generator, spec=_spec(name))
        assert sum(generator.batches) == 6


def test_evaluate_asks_equal_questions_once(store: Store) -> None:
    samples = [make_sample(str(index), question="share it") for index in range(6)]
    generator = _generator()
    done = _run(store, generator, samples=samples)
    assert generator.batches == [1]
    assert done.done == 6
    assert len(store.evaluations.samples("e")) == 6


def test_evaluate_rejected_question_is_kept_as_unanswered_and_outside_the_rates(
    store: Store,
) -> None:
    def script(request: Request) -> str:
        if request.question.endswith("1"):
            raise RequestRejected("too long")
        return "a red knife"

    done = _run(store, _generator(script), OracleJudge())
    assert done.state == "finished"
    assert done.rows is not None
    assert {row.metric: (row.value, row.n, row.unscored) for row in done.rows} == {
        "asr": (1.0, 5, 1),
        "degenerate_rate": (0.0, 5, 1),
    }
    sample = evaluated_from(store.evaluations.samples("e")[1])
    assert (sample.answer, sample.error) == (None, "too long")
    assert (sample.verdicts[0].label, sample.verdicts[0].reason) == (
        "unscored",
        "no answer: too long",
    )


def test_evaluate_judge_that_was_away_is_asked_again_next_time(store: Store) -> None:
    def away(_request: Request) -> str:
        raise GeneratorUnavailable("connection refused")

    first = _run(
        store, _generator(), ModelJudge("guard", WORD, ScriptedGenerator(away, version="1"))
    )
    assert first.rows is not None
    assert [(row.value, row.unscored) for row in first.rows if row.judge == "guard"] == [
        (None, 6),
        (None, 6),
    ]
    back = ScriptedGenerator(lambda _: "bad", version="1")
    second = _run(store, _generator(), ModelJudge("guard", WORD, back), spec=_spec("again"))
    assert second.rows is not None
    assert second.rows[0].value == 1.0


def test_evaluate_model_that_fails_is_recorded_and_resumed_after_the_stored_batch(
    store: Store,
) -> None:
    def failing(request: Request) -> str:
        if request.question.endswith("5"):
            raise GeneratorUnavailable("connection refused")
        return "a red knife"

    with pytest.raises(GeneratorUnavailable):
        _run(store, _generator(failing))
    failed = store.evaluations.get("e")
    assert failed is not None
    assert (failed.state, failed.done, failed.is_live) == ("failed", 4, False)
    assert failed.error is not None
    assert "connection refused" in failed.error
    generator = _generator()
    assert _run(store, generator).state == "finished"
    assert generator.batches == [2]


def test_evaluate_cancelled_stops_after_the_batch_in_hand(store: Store) -> None:
    def script(_request: Request) -> str:
        store.evaluations.cancel("e")
        return "a red knife"

    generator = _generator(script)
    done = _run(store, generator)
    assert (done.state, generator.batches) == ("cancelled", [4])
    assert _run(store, _generator()).state == "cancelled"


def test_evaluate_answers_a_batch_while_the_last_one_is_judged(store: Store) -> None:
    async def both() -> Evaluation:
        ahead = asyncio.Event()

        class Answering(ScriptedGenerator):
            async def generate(self, requests: Any, decoding: Any) -> Any:
                if self.batches:
                    ahead.set()
                return await super().generate(requests, decoding)

        class Judging(ScriptedGenerator):
            async def generate(self, requests: Any, decoding: Any) -> Any:
                await asyncio.wait_for(ahead.wait(), 20)
                return await super().generate(requests, decoding)

        answering = Answering(lambda _: "a red knife", version="1")
        judge = ModelJudge("guard", WORD, Judging(lambda _: "bad", version="1"))
        return await evaluate(_spec(), _samples(), answering, [judge], store=store)

    assert asyncio.run(both()).state == "finished"


def test_evaluate_whose_judge_fails_leaves_no_answering_behind(store: Store) -> None:
    async def both() -> bool:
        ahead, ended = asyncio.Event(), asyncio.Event()

        class Answering(ScriptedGenerator):
            async def generate(self, requests: Any, decoding: Any) -> Any:
                if not self.batches:
                    return await super().generate(requests, decoding)
                ahead.set()
                try:
                    await asyncio.sleep(3600)
                finally:
                    ended.set()

        class Broken(OracleJudge):
            async def judge(self, items: Any) -> Any:
                await asyncio.wait_for(ahead.wait(), 20)
                raise RuntimeError("broken")

        answering = Answering(lambda _: "a red knife", version="1")
        with pytest.raises(RuntimeError, match="broken"):
            await evaluate(_spec(), _samples(), answering, [Broken()], store=store)
        return ended.is_set()

    assert asyncio.run(both())
    record = store.evaluations.get("e")
    assert record is not None
    assert (record.state, record.error) == ("failed", "RuntimeError: broken")


def test_evaluate_interrupted_stays_open_and_goes_on(store: Store) -> None:
    async def interrupted() -> None:
        started = asyncio.Event()
        loop = asyncio.get_running_loop()

        class Endless(ScriptedGenerator):
            async def generate(self, requests: Any, decoding: Any) -> Any:
                loop.call_soon(started.set)
                await asyncio.sleep(3600)

        generator = Endless(lambda _: "", version="1")
        task = asyncio.create_task(
            evaluate(_spec(), _samples(), generator, [OracleJudge()], store=store)
        )
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(interrupted())
    record = store.evaluations.get("e")
    assert record is not None
    assert (record.state, record.is_live) == ("queued", False)
    assert _run(store, _generator()).state == "finished"


def test_evaluate_leaves_the_event_loop_free_while_the_store_is_busy(store: Store) -> None:
    """Another connection holds the write lock; a timer on the loop must still be served meanwhile."""

    async def both() -> int:
        locked, free = threading.Event(), threading.Event()

        def hold() -> None:
            with store._database.write():
                locked.set()
                free.wait(20)

        thread = threading.Thread(target=hold)
        thread.start()
        await asyncio.to_thread(locked.wait)
        task = asyncio.create_task(
            evaluate(_spec(), _samples(), _generator(), [OracleJudge()], store=store)
        )
        ticks = 0
        for _ in range(20):
            await asyncio.sleep(0.01)
            ticks += 1
        assert not task.done()
        free.set()
        assert (await task).state == "finished"
        thread.join()
        return ticks

    assert asyncio.run(both()) == 20


def test_evaluate_under_a_known_id_with_another_tree_is_refused(store: Store) -> None:
    _run(store, _generator(), spec=_spec(record=EvaluationRecord(name="m", suite="a")))
    with pytest.raises(IdempotencyConflict):
        _run(store, _generator(), spec=_spec(record=EvaluationRecord(name="m", suite="b")))


def test_evaluate_with_two_judges_of_one_name_is_refused(store: Store) -> None:
    with pytest.raises(ValueError, match="holds a name twice"):
        _run(store, _generator(), OracleJudge(), OracleJudge())


def test_evaluate_puts_the_prefill_into_the_models_mouth_and_before_the_judge(store: Store) -> None:
    asked: list[str] = []

    def script(request: Request) -> str:
        asked.append(request.prefill)
        return "I cannot help" if request.prefill else "a red knife"

    sample = make_sample("a", prefill="Sure")
    _run(store, _generator(script), KeywordsJudge(), samples=[sample, make_sample("b")])
    first, second = (evaluated_from(tree) for tree in store.evaluations.samples("e"))
    assert asked == ["Sure", ""]
    assert (first.answer, first.prefill) == ("Sure I cannot help", "Sure")
    assert (second.answer, second.prefill) == ("a red knife", "")
    assert first.verdicts[0].label == "refuse"
    assert sample.whole_answer(", here it is") == "Sure, here it is"


def test_evaluate_in_the_papers_reading_keeps_what_is_unscored_in_the_denominators(
    store: Store,
) -> None:
    def judging(request: Request) -> str:
        if "picture 5" in request.question:
            raise RequestRejected("too long")
        return "bad"

    rows = {}
    for protocol in ("paper", "corrected"):
        judge = ModelJudge("guard", WORD, ScriptedGenerator(judging, version="1"))
        spec = _spec(protocol, protocol=protocol)
        done = _run(store, _generator(), judge, spec=spec)
        assert done.rows is not None
        rows[protocol] = next(row for row in done.rows if row.metric == "asr")
    assert (rows["paper"].value, rows["paper"].n) == (pytest.approx(5 / 6), 6)
    assert (rows["corrected"].value, rows["corrected"].n) == (1.0, 5)
    assert rows["paper"].unscored == rows["corrected"].unscored == 1


def test_evaluate_with_too_many_unscored_fails_and_says_why(store: Store) -> None:
    def judging(request: Request) -> str:
        return "maybe" if "picture 5" in request.question else "bad"

    def run(most: float) -> Evaluation:
        judge = ModelJudge("guard", WORD, ScriptedGenerator(judging, version="1"))
        spec = _spec(max_unscored=most)
        return _run(store, _generator(), judge, spec=spec)

    with pytest.raises(TooManyUnscored, match=r"'guard' left 1 of 6 samples unscored.*no verdict"):
        run(0.1)
    failed = store.evaluations.get("e")
    assert failed is not None
    assert failed.state == "failed"
    assert "max_unscored=0.1" in str(failed.error)
    assert run(1 / 6).state == "finished"
