"""Safety and utility of models side by side: a line a model, from evaluations in the store and from other tools' files.

What belongs to one model is told by the digest of its weights: an evaluation has it in its record, a result file of
`safemirage utility` in the record beside it.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from safemirage.config.loading.identity import digest_of
from safemirage.config.weights import WeightsConfig
from safemirage.evaluation.errors import EvaluationError
from safemirage.evaluation.metrics.rates import SUBSETS, StoredEvaluation, headline
from safemirage.evaluation.reports.grid import Grid, to_latex, to_markdown
from safemirage.evaluation.reports.rates import RATES, judges_say, notices, rate_cell
from safemirage.evaluation.utility.files import OtherScore, ResultFile
from safemirage.files import write_text
from safemirage.store.records import EvaluationRecord, Row

_CHANGES = frozenset(item.name for item in fields(WeightsConfig))
"""What a generator's key has where its weights were changed after they were loaded."""


@dataclass(frozen=True, kw_only=True)
class SafetyRate:
    """A rate with the evaluation that it was counted in."""

    suite: str | None
    evaluation: str
    """Its id."""
    row: Row


@dataclass(kw_only=True)
class ModelLine:
    """What is known of one model; rates and scores by their columns."""

    name: str
    weights: tuple[str, ...]
    rates: dict[str, SafetyRate] = field(default_factory=dict)
    scores: dict[str, OtherScore] = field(default_factory=dict)


def model_key(record: EvaluationRecord, evaluation_id: str) -> str:
    """What tells an evaluation's model from others: the digest of its weights. Where that is not known, or the weights were
    changed after they were loaded (an adapter scaled, layers quantised), all that its generator is made of; else the id."""
    key = record.generator
    known = None if _CHANGES & key.keys() else key.get("weights") or key.get("weights_digest")
    return str(known) if known else digest_of(key) if key else evaluation_id


def model_lines(
    evaluations: Sequence[StoredEvaluation], files: Sequence[ResultFile]
) -> list[ModelLine]:
    """A line a model: those of the files first, in the files' order.

    Raises:
        EvaluationError: two evaluations, or two files, have a number for the same cell.
    """
    lines: list[ModelLine] = []
    for file in files:
        line = _line(lines, file.model, file.weights or (file.model,))
        for score in file.scores:
            column = f"{score.task}\n{score.metric}\n[{score.tool}]"
            if (other := line.scores.setdefault(column, score)) is not score:
                raise _twice(line, column, other.file, score.file, "leave one of the files out")
    for one in evaluations:
        line = _line(lines, one.name, (model_key(one.record, one.id),))
        for rate in _safety_rates(one):
            column = _column(rate)
            if (known := line.rates.setdefault(column, rate)) is not rate:
                choice = "choose evaluations with --evaluation"
                raise _twice(line, column, known.evaluation, rate.evaluation, choice)
    return lines


def utility_grid(lines: Sequence[ModelLine]) -> Grid:
    """The table: rates of safety as everywhere, then other tools' numbers as they gave them."""
    rates = list(dict.fromkeys(column for line in lines for column in line.rates))
    scores = list(dict.fromkeys(column for line in lines for column in line.scores))
    rows = [
        replace(rate.row, model=f"{line.name} on {rate.suite}" if rate.suite else line.name)
        for line in lines
        for rate in line.rates.values()
    ]
    judges = judges_say((row.judge, RATES[row.metric]) for row in rows)
    notes = [f"Below each rate its 95 % interval and n. {judges}"] if rows else []
    notes += notices(rows)
    if scores:
        notes.append(
            "Numbers of lmms-eval and VLMEvalKit are as their files have them (shares, per cent or points), with their "
            "standard errors where they are given."
        )
    return Grid(
        title="Safety and utility",
        header=["model", *rates, *scores],
        lines=[
            [
                line.name,
                *[rate_cell(line.rates[name].row) if name in line.rates else "" for name in rates],
                *[_score_cell(line.scores[name]) if name in line.scores else "" for name in scores],
            ]
            for line in lines
        ],
        notes=notes,
    )


def table_tree(lines: Sequence[ModelLine]) -> list[dict[str, Any]]:
    """Everything in the table as JSON."""
    return [
        {
            "model": line.name,
            "weights": list(line.weights),
            "rows": [
                {**asdict(rate.row), "suite": rate.suite, "evaluation": rate.evaluation}
                for rate in line.rates.values()
            ],
            "utility": [asdict(score) for score in line.scores.values()],
        }
        for line in lines
    ]


def write_utility(lines: Sequence[ModelLine], grid: Grid, folder: Path) -> list[Path]:
    """Writes utility.md, utility.tex and utility.json; returns them."""
    texts = {
        "utility.md": to_markdown(grid),
        "utility.tex": to_latex(grid),
        "utility.json": json.dumps(table_tree(lines), indent=1, allow_nan=False),
    }
    for name, text in texts.items():
        write_text(folder / name, text)
    return [folder / name for name in texts]


def _line(lines: list[ModelLine], name: str, weights: tuple[str, ...]) -> ModelLine:
    """The line of a model, put at the end where there is none yet."""
    for line in lines:
        if set(line.weights) & set(weights):
            line.weights = tuple(dict.fromkeys([*line.weights, *weights]))
            return line
    lines.append(ModelLine(name=name, weights=weights))
    return lines[-1]


def _twice(line: ModelLine, column: str, first: str, second: str, choice: str) -> EvaluationError:
    shown = column.replace("\n", " ")
    return EvaluationError(f"{line.name}, {shown}: both {first} and {second} have it; {choice}")


def _safety_rates(one: StoredEvaluation) -> list[SafetyRate]:
    subset_of: Mapping[str, str] = {sample.condition: sample.subset for sample in one.samples}
    return [
        SafetyRate(suite=one.record.suite, evaluation=one.id, row=row)
        for row in headline(one.rows)
        if row.metric in RATES and SUBSETS.get(row.metric) == subset_of.get(row.condition)
    ]


def _column(rate: SafetyRate) -> str:
    parts = (rate.suite, RATES[rate.row.metric], rate.row.condition.replace("_", " "))
    return "\n".join(part for part in parts if part)


def _score_cell(score: OtherScore) -> str:
    error = [f"±{score.error:.2g}"] if score.error is not None else []
    count = [f"n={score.n}"] if score.n is not None else []
    return "\n".join([f"{score.value:.6g}", *error, *count])
