"""The report of several evaluated models: report.html, one file that needs nothing else, and the same table as
report.md, report.tex and report.json.

write_report(store, ReportInput(title="...", models=[ReportModel(name="base", evaluation_id="eval-1")]), folder)
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from safemirage.config.loading.load import dump_yaml
from safemirage.config.rates import Metric
from safemirage.evaluation.metrics.breakdowns import AttemptRate, attempt_rates, category_rates
from safemirage.evaluation.metrics.gap import GAP_METRICS, ConditionGap, condition_gaps
from safemirage.evaluation.metrics.pictures import PictureEffect, picture_effects
from safemirage.evaluation.metrics.rates import (
    METRICS,
    StoredEvaluation,
    WordRate,
    grouped,
    headline,
)
from safemirage.evaluation.metrics.significance import row_resolution
from safemirage.evaluation.reports.figures import (
    Figure,
    attempts_figure,
    category_figure,
    words_figure,
)
from safemirage.evaluation.reports.format import Column, Table
from safemirage.evaluation.reports.grid import Grid, to_latex, to_markdown
from safemirage.evaluation.reports.page import render, shown_samples
from safemirage.evaluation.reports.rates import notices, rates_grid
from safemirage.evaluation.reports.summary import model_says
from safemirage.evaluation.reports.tables import (
    attempts_grid,
    gap_tree,
    gaps_grid,
    pictures_grid,
    resolution_grid,
)
from safemirage.evaluation.run.archive import load_evaluation
from safemirage.evaluation.types import EvaluatedSample
from safemirage.files import write_text
from safemirage.store.database import Store
from safemirage.store.records import Row
from safemirage.text.numbers import bounds

_TEMPLATE = "report.html.j2"
HTML, JSON, MARKDOWN, LATEX = "report.html", "report.json", "report.md", "report.tex"
_SAME_SAYS = "They are one and the same, and stand in one line."


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
    """Versions of package, commit, seed and so on, by name."""
    samples_per_condition: int = 2
    """Pictures with questions and answers, of each condition; 0 leaves them out."""
    curves: Sequence[Figure] = ()
    """Further figures, shown before the others."""


@dataclass(frozen=True, kw_only=True)
class Report:
    html: Path
    json: Path
    markdown: Path
    latex: Path
    rows: list[Row]
    """The main table: one row a model, condition and metric."""
    gaps: Grid | None
    """The mirage gaps, where a suite has an attack and its control."""
    pictures: Grid | None
    """What the models looked at, where a suite has controls on its pictures."""


@dataclass(frozen=True, kw_only=True)
class _Evaluated:
    """A model with what the store has of its evaluation."""

    model: ReportModel
    stored: StoredEvaluation
    """The evaluation, under the model's name."""

    @property
    def rows(self) -> list[Row]:
        return self.stored.rows

    @property
    def samples(self) -> list[EvaluatedSample]:
        return self.stored.samples

    @property
    def table(self) -> Table:
        return {(row.condition, row.metric): row for row in headline(self.rows)}

    def judge(self, metric: Metric) -> str | None:
        return next((row.judge for row in self.rows if row.metric == metric), None)


@dataclass(frozen=True, kw_only=True)
class _Measured:
    """All that the four files show of the models. Computed once."""

    models: Sequence[_Evaluated]
    columns: Sequence[Column]
    gaps: Sequence[ConditionGap]
    pictures: Sequence[PictureEffect]
    attempts: Sequence[Sequence[AttemptRate]]
    """The curves over the number of tries, one entry for each model that has them."""
    categories: Sequence[tuple[str, Sequence[WordRate]]]
    """Condition and rates, models in order."""
    notices: Sequence[str]

    @property
    def attempt_rates(self) -> list[AttemptRate]:
        return [rate for rates in self.attempts for rate in rates]


def write_report(store: Store, given: ReportInput, folder: Path) -> Report:
    """Writes the four files into `folder`; each is put in place whole.

    Raises:
        ValueError: there is no model, two have one name, or an evaluation is not there or not finished.
    """
    names = [model.name for model in given.models]
    if not names or len(set(names)) != len(names):
        raise ValueError(f"models: {names!r} must be at least one name, each once")
    measured = _measured(_distinct([_load(store, model) for model in given.models]))
    grids = _grids(measured, given.title)
    folder.mkdir(parents=True, exist_ok=True)
    report = Report(
        html=folder / HTML,
        json=folder / JSON,
        markdown=folder / MARKDOWN,
        latex=folder / LATEX,
        rows=[row for one in measured.models for row in headline(one.rows)],
        gaps=grids["gaps"],
        pictures=grids["pictures"],
    )
    write_text(report.json, json.dumps(_tree(given, measured), indent=1, allow_nan=False))
    there = [grid for grid in grids.values() if grid is not None]
    write_text(report.markdown, "\n".join(map(to_markdown, there)))
    write_text(report.latex, "\n".join(map(to_latex, there)))
    write_text(report.html, _render_html(store, given, measured, grids))
    return report


def _measured(models: Sequence[_Evaluated]) -> _Measured:
    stored = [one.stored for one in models]
    return _Measured(
        models=models,
        columns=_columns(models),
        gaps=condition_gaps(stored),
        pictures=picture_effects(stored),
        attempts=[rates for one in models if (rates := _attempts(one))],
        categories=[found for one in models for found in _categories(one).items()],
        notices=notices([row for one in models for row in one.rows]),
    )


def _tree(given: ReportInput, measured: _Measured) -> dict[str, Any]:
    """report.json: every row says its evaluation, judge and n."""
    attempts = {column.condition: column.attempts for column in measured.columns}
    return {
        "title": given.title,
        "rows": [
            {**_row(one, row), "smallest_effect": _resolution(row, attempts[row.condition])}
            for one in measured.models
            for row in headline(one.rows)
        ],
        "rows_of_every_judge": [_row(one, row) for one in measured.models for row in one.rows],
        "mirage_gaps": [gap_tree(gap) for gap in measured.gaps],
        "pictures": [asdict(effect) for effect in measured.pictures],
        "attempts": [asdict(rate) for rate in measured.attempt_rates],
        "categories": [
            {"condition": condition, **asdict(rate)}
            for condition, rates in measured.categories
            for rate in rates
        ],
        "models": [
            {
                "model": one.model.name,
                "evaluation": one.model.evaluation_id,
                "protocol": one.stored.protocol,
                "says": one.model.says,
            }
            for one in measured.models
        ],
        "notices": measured.notices,
        "versions": dict(given.versions),
    }


def _row(one: _Evaluated, row: Row) -> dict[str, Any]:
    return {**asdict(row), "evaluation": one.model.evaluation_id}


def _resolution(row: Row, attempts: int) -> dict[str, Any] | None:
    found = row_resolution(row, attempts)
    return None if found is None else asdict(found)


def _load(store: Store, model: ReportModel) -> _Evaluated:
    evaluation = store.evaluations.get(model.evaluation_id)
    if evaluation is None or evaluation.state != "finished" or evaluation.rows is None:
        state = evaluation.state if evaluation else "not in the store"
        raise ValueError(
            f"models.{model.name}: evaluation {model.evaluation_id!r} is {state}; a report needs finished ones"
        )
    stored = load_evaluation(store, evaluation)
    rows = [replace(row, model=model.name) for row in stored.rows]
    return _Evaluated(model=model, stored=replace(stored, name=model.name, rows=rows))


def _distinct(evaluated: Sequence[_Evaluated]) -> list[_Evaluated]:
    """Each measurement once: models whose rows come from one evaluation, or from equal ones, share a line and both names."""
    groups = grouped(evaluated, lambda one: one.stored.content)
    return [members[0] if len(members) == 1 else _joined(members) for members in groups.values()]


def _joined(members: Sequence[_Evaluated]) -> _Evaluated:
    names = [one.model.name for one in members]
    name = " = ".join(names)
    says = " ".join([*(one.model.says for one in members), _SAME_SAYS])
    first = members[0]
    rows = [replace(row, model=name) for row in first.rows]
    return _Evaluated(
        model=replace(first.model, name=name, says=says.strip()),
        stored=replace(first.stored, name=name, rows=rows),
    )


def _render_html(
    store: Store, given: ReportInput, measured: _Measured, grids: Mapping[str, Grid | None]
) -> str:
    """The page. Text of models and suites is escaped, and the page may load nothing and run no script."""
    models, columns = measured.models, measured.columns
    return render(
        _TEMPLATE,
        given=given,
        evaluated=models,
        findings={
            one.model.name: model_says(one.model.name, one.table, columns, measured.gaps)
            for one in models
        },
        notices=measured.notices,
        columns=columns,
        charts=[_words(one) for one in models],
        attempts=[attempts_figure(rates) for rates in measured.attempts],
        categories=[category_figure(condition, rates) for condition, rates in measured.categories],
        samples=shown_samples(
            store,
            {one.model.name: one.samples for one in models},
            columns,
            count=given.samples_per_condition,
        ),
        configs=_configs(given),
        grids=grids,
        every_row=[row for one in models for row in one.rows],
        ids={one.model.name: one.model.evaluation_id for one in models},
    )


def _columns(evaluated: Sequence[_Evaluated]) -> list[Column]:
    """The conditions of all models' suites, in order of appearance."""
    members: dict[str, dict[str, list[EvaluatedSample]]] = {}
    for one in evaluated[::-1]:  # the first model's samples describe a condition that several have
        conditions: dict[str, dict[str, list[EvaluatedSample]]] = {}
        for sample in one.samples:
            conditions.setdefault(sample.condition, {}).setdefault(sample.group_id, []).append(
                sample
            )
        members = {
            **conditions,
            **{name: members[name] for name in members.keys() - conditions.keys()},
        }
    columns = []
    for condition, groups in members.items():
        some = next(iter(groups.values()))
        columns.append(
            Column(
                condition,
                subset=some[0].subset,
                attack=some[0].attack,
                attempts=max(len(group) for group in groups.values()),
                questions=len(groups),
            )
        )
    return columns


def _words(one: _Evaluated) -> Figure:
    judges = {metric: one.judge(metric) for metric in METRICS}
    return words_figure(one.model.name, one.samples, judges)


def _attempts(one: _Evaluated) -> list[AttemptRate]:
    if one.stored.has_split_groups:
        return []  # a group is no question there
    return [
        rate
        for metric in GAP_METRICS
        if (judge := one.judge(metric)) is not None
        for rate in attempt_rates(one.model.name, one.samples, judge, metric=metric)
    ]


def _grids(measured: _Measured, title: str) -> dict[str, Grid | None]:
    """The tables by what the page calls them, the main one first; None for one without a line."""
    ids = [
        f"{one.model.name} is evaluation {one.model.evaluation_id}, by the protocol {one.stored.protocol}."
        for one in measured.models
    ]
    every_row = [row for one in measured.models for row in one.rows]
    attempts = {column.condition: column.attempts for column in measured.columns}
    rows = [(row, attempts[row.condition]) for one in measured.models for row in headline(one.rows)]
    return {
        "rates": rates_grid(every_row, title=title, notes=ids, spelt=bounds),
        "gaps": gaps_grid(measured.gaps),
        "pictures": pictures_grid(measured.pictures),
        "tries": attempts_grid(measured.attempt_rates),
        "resolution": resolution_grid(rows),
    }


def _categories(one: _Evaluated) -> dict[str, list[WordRate]]:
    judge = one.judge("asr")
    return category_rates(one.model.name, one.samples, judge) if judge is not None else {}


def _configs(given: ReportInput) -> dict[str, str]:
    trees = {model.name: model.config for model in given.models if model.config is not None}
    return {title: dump_yaml(tree) for title, tree in {**trees, **given.configs}.items()}
