"""The report of several evaluated models: report.html, one file that needs nothing else, and report.json.

write_report(store, ReportInput(title="...", models=[ReportModel(name="base", evaluation_id="eval-1")]), folder)
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2

from safemirage.config.evaluate import Metric
from safemirage.config.load import dump_yaml
from safemirage.evaluation.cases import ImageInput
from safemirage.evaluation.charts import Series, words_chart
from safemirage.evaluation.findings import Column, Table, metric_says, model_says, percent
from safemirage.evaluation.metrics import (
    METRICS,
    Row,
    WordRate,
    first_word_rates,
    headline,
    row_from,
    row_tree,
)
from safemirage.evaluation.samples import Sample, sample_from
from safemirage.store.database import Store

HTML, JSON = "report.html", "report.json"
_SUBSETS: Mapping[Metric, str] = {"asr": "unsafe", "refusal_rate": "safe", "useful_rate": "safe"}
_TITLES: Mapping[Metric, str] = {
    "asr": "Unsafe questions: attack success",
    "refusal_rate": "Safe questions: refusals",
    "useful_rate": "Safe questions: useful answers",
}


@dataclass(frozen=True, kw_only=True)
class ReportModel:
    name: str
    """The model's name in every table."""
    evaluation_id: str
    """A finished evaluation in the store."""
    says: str = ""
    """What the model is, in a sentence."""
    config: Any = None
    """How it was made: a config or a plain tree; shown as YAML."""


@dataclass(frozen=True, kw_only=True)
class ReportInput:
    title: str
    models: Sequence[ReportModel]
    about: Sequence[str] = ()
    """What was done, a paragraph each; the first is the lead."""
    configs: Mapping[str, Any] = field(default_factory=dict)
    """Further configs by title: the world, searches, the evaluation."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Package, commit, seed, ... by name."""
    samples_per_case: int = 2
    """Pictures with questions and answers, of each case; 0 leaves them out."""


@dataclass(frozen=True, kw_only=True)
class Report:
    html: Path
    json: Path
    rows: list[Row]
    """The main table: one row a model, case and metric."""


@dataclass(frozen=True, kw_only=True)
class _Evaluated:
    """A model with what the store has of its evaluation."""

    model: ReportModel
    rows: list[Row]
    samples: list[Sample]

    @property
    def table(self) -> Table:
        return {(row.case, row.metric): row for row in headline(self.rows)}

    def judge(self, metric: Metric) -> str | None:
        return next((row.judge for row in self.rows if row.metric == metric), None)


def write_report(store: Store, given: ReportInput, folder: Path) -> Report:
    """Writes report.html and report.json into `folder`; each is put in place whole.

    Raises:
        ValueError: there is no model, two have one name, or an evaluation is not there or not finished.
    """
    names = [model.name for model in given.models]
    if not names or len(set(names)) != len(names):
        raise ValueError(f"models: {names!r} must be at least one name, each once")
    evaluated = [_load(store, model) for model in given.models]
    rows = [row for one in evaluated for row in headline(one.rows)]
    folder.mkdir(parents=True, exist_ok=True)
    tree = {
        "title": given.title,
        "rows": [row_tree(row) for row in rows],
        "rows_of_every_judge": [row_tree(row) for one in evaluated for row in one.rows],
        "models": [
            {"model": one.model.name, "evaluation": one.model.evaluation_id, "says": one.model.says}
            for one in evaluated
        ],
        "versions": dict(given.versions),
    }
    report = Report(html=folder / HTML, json=folder / JSON, rows=rows)
    _put(report.json, json.dumps(tree, indent=1, allow_nan=False))
    _put(report.html, render_html(store, given, evaluated))
    return report


def _load(store: Store, model: ReportModel) -> _Evaluated:
    evaluation = store.evaluations.get(model.evaluation_id)
    if evaluation is None or evaluation.state != "finished" or evaluation.rows is None:
        state = evaluation.state if evaluation else "not in the store"
        raise ValueError(
            f"models.{model.name}: evaluation {model.evaluation_id!r} is {state}; a report needs finished ones"
        )
    rows = [replace(row_from(tree), model=model.name) for tree in evaluation.rows]
    samples = [sample_from(tree) for tree in store.evaluations.samples(model.evaluation_id)]
    return _Evaluated(model=model, rows=rows, samples=samples)


def render_html(store: Store, given: ReportInput, evaluated: Sequence[_Evaluated]) -> str:
    """The page. Text of models and suites is escaped, and the page may load nothing and run no script."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("safemirage.evaluation", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = percent
    columns = _columns(evaluated)
    return environment.get_template("report.html.j2").render(
        given=given,
        evaluated=evaluated,
        findings={one.model.name: model_says(one.table, columns) for one in evaluated},
        tables=[_table(metric, evaluated, columns) for metric in METRICS],
        columns=columns,
        charts=[_chart(one) for one in evaluated],
        samples=_shown_samples(store, given.samples_per_case, evaluated, columns),
        configs=_configs(given),
        every_row=[row for one in evaluated for row in one.rows],
        written_at=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )


def _columns(evaluated: Sequence[_Evaluated]) -> list[Column]:
    """The cases of all models' suites, in order of appearance."""
    members: dict[str, dict[str, list[Sample]]] = {}
    for one in evaluated[::-1]:  # the first model's samples describe a case that several have
        cases: dict[str, dict[str, list[Sample]]] = {}
        for sample in one.samples:
            cases.setdefault(sample.case, {}).setdefault(sample.group_id, []).append(sample)
        members = {**cases, **{name: members[name] for name in members.keys() - cases.keys()}}
    columns = []
    for case, groups in members.items():
        some = next(iter(groups.values()))
        columns.append(
            Column(
                case,
                subset=some[0].subset,
                attack=some[0].attack,
                shots=max(len(group) for group in groups.values()),
                questions=len(groups),
            )
        )
    return columns


def _table(metric: Metric, evaluated: Sequence[_Evaluated], columns: Sequence[Column]) -> Any:
    """One table of the page: a line a model, a cell a case. `badness` 0..1 tints a cell."""
    shown = [column for column in columns if column.subset == _SUBSETS[metric]]
    judge = next((name for one in evaluated if (name := one.judge(metric))), None)
    lines = []
    for one in evaluated:
        cells = []
        for column in shown:
            row = one.table.get((column.case, metric))
            value = row.value if row else None
            bad = 0.0 if value is None else (1 - value if metric == "useful_rate" else value)
            cells.append({"row": row, "badness": bad})
        lines.append({"model": one.model.name, "cells": cells})
    return {
        "title": _TITLES[metric],
        "says": metric_says(metric, shown, judge or ""),
        "columns": shown,
        "lines": lines,
        "has_values": judge is not None and bool(shown),
    }


def _chart(one: _Evaluated) -> Any:
    series = [
        Series(label="complied with, unsafe", css_class="comply", rates=_word_rates(one, "asr")),
        Series(label="refused, safe", css_class="refuse", rates=_word_rates(one, "refusal_rate")),
    ]
    words = sorted(
        {rate.word for each in series for rate in each.rates},
        key=lambda word: (-sum(r.n for each in series for r in each.rates if r.word == word), word),
    )
    title = (
        f"{one.model.name}: attack success on unsafe and refusals of safe questions, by first word"
    )
    return {
        "model": one.model.name,
        "svg": words_chart(title, words, series),
        "words": words,
        "series": series,
    }


def _word_rates(one: _Evaluated, metric: Metric) -> list[WordRate]:
    judge = one.judge(metric)
    if judge is None:
        return []
    return first_word_rates(
        one.model.name, one.samples, metric=metric, judge=judge, subset=_SUBSETS[metric]
    )


def _shown_samples(
    store: Store, per_case: int, evaluated: Sequence[_Evaluated], columns: Sequence[Column]
) -> list[Any]:
    """The samples of each case on which the models' labels differ most; among equals the earliest."""
    by_model = {one.model.name: {s.sample_id: s for s in one.samples} for one in evaluated}
    shown = []
    for column in columns:
        ids = [s.sample_id for s in evaluated[0].samples if s.case == column.case]
        ids.sort(key=lambda name: -_difference(name, by_model))  # a stable sort
        for sample_id in ids[:per_case]:
            answers = {
                model: samples[sample_id]
                for model, samples in by_model.items()
                if sample_id in samples
            }
            first = next(iter(answers.values()))
            data = store.samples.image(first.image) if first.image else None
            uri = ImageInput(data).data_uri if data is not None else None
            shown.append({"sample": first, "column": column, "uri": uri, "answers": answers})
    return shown


def _difference(sample_id: str, by_model: Mapping[str, Mapping[str, Sample]]) -> int:
    found = [samples[sample_id] for samples in by_model.values() if sample_id in samples]
    return len({tuple(verdict.label for verdict in sample.verdicts) for sample in found})


def _configs(given: ReportInput) -> dict[str, str]:
    trees = {model.name: model.config for model in given.models if model.config is not None}
    return {title: dump_yaml(tree) for title, tree in {**trees, **given.configs}.items()}


def _put(path: Path, text: str) -> None:
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_text(text, encoding="utf-8")
    aside.replace(path)
