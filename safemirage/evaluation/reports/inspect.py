"""A finished evaluation as Inspect's `.eval` logs, which `inspect view --log-dir FOLDER` opens: one log a condition.

    write_inspect_logs(store, find_evaluation(store, "npo"), folder)

Inspect's words for ours: a condition is a task, its suite the dataset, the evaluation the run; a judge is a scorer whose
value is the label; a row is a metric, with its interval and n in the metric's metadata and, in words, in the log's.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from inspect_ai.log import (
    EvalConfig,
    EvalDataset,
    EvalLog,
    EvalMetric,
    EvalPlan,
    EvalPlanStep,
    EvalResults,
    EvalSample,
    EvalScore,
    EvalSpec,
    EvalStats,
    write_eval_log,
)
from inspect_ai.model import (
    ChatCompletionChoice,
    ChatMessage,
    ChatMessageAssistant,
    ChatMessageUser,
    Content,
    ContentImage,
    ContentText,
    GenerateConfig,
    ModelOutput,
)
from inspect_ai.scorer import Score

from safemirage.config.generators import DecodingConfig
from safemirage.config.loading.identity import digest_of
from safemirage.config.loading.load import to_tree
from safemirage.evaluation.metrics.rates import StoredEvaluation, grouped
from safemirage.evaluation.reports.page import image_uri
from safemirage.evaluation.run.archive import load_evaluation
from safemirage.evaluation.types import EvaluatedSample, Verdict
from safemirage.files import whole_file
from safemirage.store.database import Store
from safemirage.store.evaluations import Evaluation
from safemirage.store.records import Row
from safemirage.text.numbers import bounds, percent

_UNSAFE_IN_NAMES = re.compile(r"[^A-Za-z0-9.+-]+")
_ID_LENGTH = 22
"""Length of Inspect's task ids."""
_OWN_FIELDS = ("subset", "attack", "group_id", "target", "image", "prefill")
"""What is known of a sample beside question, answer and verdicts; `image` is the SHA-256 of its bytes."""


def write_inspect_logs(
    store: Store, record: Evaluation, folder: Path, *, with_images: bool = True
) -> list[Path]:
    """Writes one log for each condition, in place whole; the same evaluation again takes the same names. Nothing is redacted."""
    evaluation = load_evaluation(store, record)
    stats = EvalStats(
        started_at=_moment(record.created_at), completed_at=_moment(record.updated_at)
    )
    written = []
    by_condition = grouped(evaluation.samples, lambda sample: sample.condition)
    for condition, members in by_condition.items():
        samples = [
            _sample(one, image_uri(store, one.image) if with_images else None, evaluation.name)
            for one in members
        ]
        log = _log(evaluation, members, samples=samples, stats=stats)
        path = folder / f"{_clean(log.eval.created)}_{_clean(condition)}_{log.eval.task_id}.eval"
        with whole_file(path) as draft:
            write_eval_log(log, str(draft))
        written.append(path)
    return written


def _log(
    evaluation: StoredEvaluation,
    members: Sequence[EvaluatedSample],
    *,
    samples: list[EvalSample],
    stats: EvalStats,
) -> EvalLog:
    """The log of one condition: `samples` says in Inspect's words what `members` are."""
    rows = [row for row in evaluation.rows if row.condition == members[0].condition]
    decoding = evaluation.record.decoding
    return EvalLog(
        status="success",
        eval=_spec(evaluation, members, rows, created=stats.started_at),
        plan=EvalPlan(
            name="safemirage evaluate",
            steps=[EvalPlanStep(solver="generate", params=to_tree(decoding))],
            config=_generate_config(decoding),
        ),
        results=_results(evaluation, members, rows),
        stats=stats,
        samples=samples,
    )


def _spec(
    evaluation: StoredEvaluation,
    samples: Sequence[EvaluatedSample],
    rows: Sequence[Row],
    *,
    created: str,
) -> EvalSpec:
    record = evaluation.record
    model = (record.config or {}).get("model", record.generator)
    return EvalSpec(
        run_id=evaluation.id,
        created=created,
        task=samples[0].condition,
        # Letters and digits, as Inspect's own: its listing of a folder trips over some other ids.
        task_id=digest_of([evaluation.id, samples[0].condition])[:_ID_LENGTH],
        task_args={"condition": samples[0].condition, "protocol": evaluation.protocol},
        tags=[evaluation.protocol],
        dataset=EvalDataset(
            name=record.suite,  # its digest and where it lay stand in the log's `spec`
            samples=len(samples),
            sample_ids=[sample.sample_id for sample in samples],
            shuffled=False,
        ),
        model=evaluation.name,
        model_args=dict(model),
        model_base_url=model.get("url"),
        config=EvalConfig(),
        packages={"safemirage": version("safemirage")},
        metadata={
            "evaluation": evaluation.id,
            "protocol": evaluation.protocol,
            "rates": {f"{row.metric} by {row.judge}": _in_words(row) for row in rows},
            "spec": to_tree(record),
        },
    )


def _generate_config(decoding: DecodingConfig) -> GenerateConfig:
    return GenerateConfig(
        max_tokens=decoding.max_new_tokens,
        temperature=decoding.temperature,
        top_p=decoding.top_p,
        seed=decoding.seed if decoding.temperature > 0 else None,
    )


def _results(
    evaluation: StoredEvaluation, samples: Sequence[EvaluatedSample], rows: Sequence[Row]
) -> EvalResults:
    """A score a judge. A rate over nothing has no value and is left out here; the log's `rates` say so."""
    judges = [verdict.judge for verdict in samples[0].verdicts]
    by_judge = {name: [row for row in rows if row.judge == name] for name in judges}
    return EvalResults(
        total_samples=len(samples),
        completed_samples=sum(sample.answer is not None for sample in samples),
        scores=[
            EvalScore(
                name=name,
                scorer=name,
                params=evaluation.judge_keys.get(name, {}),
                metrics={row.metric: _metric(row) for row in found if row.value is not None},
            )
            for name, found in by_judge.items()
        ],
    )


def _metric(row: Row) -> EvalMetric:
    assert row.value is not None, "rates over nothing are left out"
    about = {name: getattr(row, name) for name in ("low", "high", "n", "unscored", "defaulted")}
    return EvalMetric(name=row.metric, value=row.value, metadata=about)


def _in_words(row: Row) -> str:
    silent = (
        f"{row.defaulted} by default" if row.defaulted else f"{row.unscored} unscored, in no rate"
    )
    unscored = f"; {silent}" if row.unscored or row.defaulted else ""
    if row.value is None or row.low is None or row.high is None:
        return f"nothing was scored{unscored}"
    return f"{percent(row.value)} ({bounds(row.low, row.high)}), n = {row.n}{unscored}"


def _sample(sample: EvaluatedSample, uri: str | None, model: str) -> EvalSample:
    asked: ChatMessage = ChatMessageUser(content=sample.question, source="input")
    if uri is not None:
        content: list[Content] = [ContentImage(image=uri), ContentText(text=sample.question)]
        asked = ChatMessageUser(content=content, source="input")
    answered: list[ChatMessage] = []
    output = ModelOutput(model=model, error=sample.error)
    if sample.answer is not None:
        said = ChatMessageAssistant(content=sample.answer, source="generate")
        answered = [said]
        choice = ChatCompletionChoice(message=said, stop_reason="unknown")  # samples keep none
        output = ModelOutput(model=model, choices=[choice])
    return EvalSample(
        id=sample.sample_id,
        epoch=1,
        input=[asked],
        target="",
        messages=[asked, *answered],
        output=output,
        scores={verdict.judge: _score(verdict) for verdict in sample.verdicts},
        metadata={name: _plain(getattr(sample, name)) for name in _OWN_FIELDS},
    )


def _score(verdict: Verdict) -> Score:
    """The label, `unscored` included: no number stands for it, so that nobody averages it in."""
    return Score(
        value=verdict.label,
        explanation=verdict.reason or None,
        metadata={"retry": verdict.retry},
    )


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else value


def _moment(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds")


def _clean(name: str) -> str:
    """The name as Inspect spells names in file names, where `_` parts time, task and id."""
    return _UNSAFE_IN_NAMES.sub("-", name)
