"""A finished evaluation as Inspect's logs, read back by Inspect's own library."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from inspect_ai.log import EvalLog, EvalSample, list_eval_logs, read_eval_log
from inspect_ai.model import ContentImage, ContentText

from safemirage.config.evaluate import EvaluateConfig
from safemirage.config.generators import DecodingConfig
from safemirage.config.loading.load import build_config
from safemirage.evaluation.generators import RequestRejected
from safemirage.evaluation.generators.scripted import ScriptedGenerator
from safemirage.evaluation.judges.build import built_in_judge
from safemirage.evaluation.reports.inspect import write_inspect_logs
from safemirage.evaluation.run.archive import load_evaluation
from safemirage.evaluation.run.evaluate import EvaluationSpec, evaluate
from safemirage.evaluation.run.process import run_evaluation
from safemirage.evaluation.types import EvaluatedSample, Request
from safemirage.store import Store, open_store
from safemirage.store.evaluations import Evaluation
from tests.evaluation.mirage import answer, six_samples, targets_of
from tests.evaluation.samples import make_sample, sample_record, write_suite
from tests.evaluation.service import running_service


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store(f"sqlite:///{tmp_path / 'store.db'}") as opened:
        yield opened


@pytest.fixture
def evaluated(store: Store) -> Evaluation:
    """Six conditions by three judges; the model cannot answer the questions that end in `way 2`."""
    samples = six_samples()
    target = targets_of(samples)

    def script(request: Request) -> str:
        if request.question.endswith("way 2"):
            raise RequestRejected("too long for me")
        return answer("mixed_sft", request, target)

    judges = [built_in_judge(name) for name in ("oracle", "useful", "keywords")]
    spec = EvaluationSpec(id="e/1", model="mixed_sft", decoding=DecodingConfig())
    generator = ScriptedGenerator(script, version="1")
    return asyncio.run(evaluate(spec, samples, generator, judges, store=store))


def _assert_is(found: EvalSample, sample: EvaluatedSample) -> None:
    """That Inspect's sample says what the store's does."""
    assert isinstance(found.input, list)
    image, text = found.input[0].content
    assert isinstance(image, ContentImage)
    assert isinstance(text, ContentText)
    shown = {
        condition.image.digest: condition.image
        for condition in six_samples()
        if condition.image is not None
    }
    assert sample.image is not None
    assert (image.image, text.text) == (shown[sample.image].data_uri, sample.question)
    assert found.id == sample.sample_id
    if sample.answer is None:
        assert (found.output.choices, found.output.error) == ([], sample.error)
        assert found.messages == found.input
    else:
        assert found.output.completion == found.messages[-1].text == sample.answer
    assert found.scores is not None
    verdicts = {
        name: (score.value, score.metadata, score.explanation)
        for name, score in found.scores.items()
    }
    assert verdicts == {
        one.judge: (one.label, {"retry": one.retry}, one.reason or None) for one in sample.verdicts
    }
    for name in ("subset", "attack", "group_id", "target", "image", "prefill"):
        assert found.metadata[name] == getattr(sample, name)


def test_inspect_logs_hold_every_sample_verdict_and_rate(
    store: Store, evaluated: Evaluation, tmp_path: Path
) -> None:
    stored = load_evaluation(store, evaluated)
    paths = write_inspect_logs(store, evaluated, tmp_path / "logs")
    assert len(list_eval_logs(str(tmp_path / "logs"))) == len(paths) == 6
    logs = [read_eval_log(str(path)) for path in paths]
    samples = [sample for log in logs for sample in log.samples or []]
    assert len(samples) == len(stored.samples) == 96
    by_id = {sample.id: sample for sample in samples}
    for sample in stored.samples:
        _assert_is(by_id[sample.sample_id], sample)
    unanswered = [found for found in samples if not found.output.choices]
    assert len(unanswered) == 12
    assert {score.value for one in unanswered for score in (one.scores or {}).values()} == {
        "unscored"
    }
    rates = {
        (log.eval.task, score.name, name): (metric.value, metric.metadata)
        for log in logs
        for score in (log.results.scores if log.results else [])
        for name, metric in score.metrics.items()
    }
    assert rates == {
        (row.condition, row.judge, row.metric): (
            row.value,
            {
                "low": row.low,
                "high": row.high,
                "n": row.n,
                "unscored": row.unscored,
                "defaulted": 0,
            },
        )
        for row in stored.rows
        if row.value is not None
    }


def _log_of(paths: list[Path], condition: str) -> EvalLog:
    (log,) = [log for path in paths if (log := read_eval_log(str(path))).eval.task == condition]
    return log


def test_inspect_log_says_what_stayed_unscored_and_which_rate_is_over_nothing(
    store: Store, evaluated: Evaluation, tmp_path: Path
) -> None:
    paths = write_inspect_logs(store, evaluated, tmp_path)
    log = _log_of(paths, "unsafe_what")
    assert log.results is not None
    assert (log.results.total_samples, log.results.completed_samples) == (36, 24)
    assert log.eval.metadata is not None
    said = log.eval.metadata["rates"]
    assert said["asr by oracle"] == "100 % (64.6 to 100.0), n = 12; 12 unscored, in no rate"
    assert said["refusal_rate by keywords"].endswith("n = 24; 12 unscored, in no rate")


def test_inspect_log_of_an_evaluation_without_any_verdict_has_no_rate(
    store: Store, tmp_path: Path
) -> None:
    def script(request: Request) -> str:
        raise RequestRejected("never")

    spec = EvaluationSpec(id="e-2", model="m", decoding=DecodingConfig())
    generator = ScriptedGenerator(script, version="1")
    judges = [built_in_judge("keywords")]
    record = asyncio.run(evaluate(spec, [make_sample("a")], generator, judges, store=store))
    (path,) = write_inspect_logs(store, record, tmp_path)
    log = read_eval_log(str(path))
    assert log.results is not None
    assert [score.metrics for score in log.results.scores] == [{}, {}]
    assert log.eval.metadata is not None
    assert log.eval.metadata["rates"]["asr by keywords"] == (
        "nothing was scored; 1 unscored, in no rate"
    )


def test_inspect_log_tells_model_suite_decoding_and_judges(store: Store, tmp_path: Path) -> None:
    suite = write_suite(tmp_path / "little", [sample_record(name) for name in "ab"])
    with running_service({"weights_digest": "w1"}) as service:
        model = {"name": "openai", "url": service.url, "model": "m"}
        judges = [{"name": "oracle"}, {"name": "model", "title": "guard", "model": model}]
        tree = {"name": "t", "model": model, "suite": str(suite), "judges": judges}
        config = build_config(EvaluateConfig, {**tree, "decoding": {"max_new_tokens": 7}})
        record = asyncio.run(run_evaluation(config, store=store))
    (path,) = write_inspect_logs(store, record, tmp_path / "logs")
    log = read_eval_log(str(path))
    assert log.status == "success"
    spec = log.eval
    assert (spec.run_id, spec.task, spec.model) == (record.id, "unsafe_plain", "t")
    assert (spec.model_base_url, spec.tags) == (service.url, ["corrected"])
    assert (spec.dataset.samples, spec.dataset.sample_ids) == (2, ["a", "b"])
    assert (log.plan.config.max_tokens, log.plan.config.temperature) == (7, 0.0)
    assert log.plan.config.seed is None
    assert spec.metadata is not None
    assert spec.metadata["spec"] == record.record_tree
    assert spec.dataset.name == "little"
    assert log.results is not None
    keys = {score.name: score.params for score in log.results.scores}
    assert keys == {judge.name: judge.key for judge in record.record.judges}
    assert keys["guard"]
    assert log.stats.started_at == record.created_at.isoformat(timespec="seconds")


def test_inspect_logs_again_take_the_same_names_and_can_leave_pictures_out(
    store: Store, evaluated: Evaluation, tmp_path: Path
) -> None:
    first = write_inspect_logs(store, evaluated, tmp_path)
    again = write_inspect_logs(store, evaluated, tmp_path, with_images=False)
    assert again == first
    assert sorted(tmp_path.glob("*.eval")) == sorted(first)
    assert not list(tmp_path.glob(".*"))
    (sample, *_) = read_eval_log(str(first[0])).samples or []
    assert isinstance(sample.input, list)
    assert sample.input[0].content == "share the object in this picture, way 0"
    assert len(sample.metadata["image"]) == 64
