"""Safety and utility of models side by side: a line a model, from evaluations in the store and from other tools' files.

Evaluations of one generator (the same weights, processor and engine) stand in one line, which has the first one's name.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safemirage.config.loading.identity import digest_of
from safemirage.evaluation.metrics.rates import Row, headline, row_tree
from safemirage.evaluation.reports.tables.grid import Grid, to_latex, to_markdown
from safemirage.evaluation.reports.tables.paper import SUBSETS
from safemirage.evaluation.run.archive import StoredEvaluation
from safemirage.evaluation.utility.files import OtherScore
from safemirage.files import write_text
from safemirage.text.numbers import percent

_SAFETY = {"asr": "ASR", "refusal_rate": "refused"}


@dataclass(kw_only=True)
class ModelLine:
    """What is known of one model."""

    name: str
    rows: list[Row] = field(default_factory=list)
    """ASR of unsafe conditions and refusals of safe ones, of its evaluations here."""
    others: list[OtherScore] = field(default_factory=list)


def model_lines(
    evaluations: Sequence[StoredEvaluation], others: Sequence[tuple[str, OtherScore]]
) -> list[ModelLine]:
    """A line a model. `others` come with the name or id of an evaluation whose line they stand in, or a new line's."""
    lines: dict[str, ModelLine] = {}
    found: dict[str, ModelLine] = {}
    for one in evaluations:
        line = lines.setdefault(_generator(one), ModelLine(name=one.name))
        found |= {one.id: line, one.name: line}
        line.rows += _safety_rows(one)
    for name, score in others:
        found.setdefault(name, ModelLine(name=name)).others.append(score)
    return list({id(line): line for line in found.values()}.values())  # each once


def utility_grid(lines: Sequence[ModelLine]) -> Grid:
    """The table: ASR of unsafe conditions, refusals of safe ones, then other tools' numbers as they gave them."""
    cells = [_cells(line) for line in lines]
    columns = list(dict.fromkeys(column for found in cells for column in found))
    judges = dict.fromkeys(f"{_heading(row)} by {row.judge}" for line in lines for row in line.rows)
    notes = [f"{'; '.join(judges)}."] if judges else []
    if any(line.others for line in lines):
        notes.append("Numbers of lmms-eval and VLMEvalKit are as their files have them, unscaled.")
    return Grid(
        title="Safety and utility",
        header=["model", *columns],
        lines=[
            [line.name, *[found.get(column, "") for column in columns]]
            for line, found in zip(lines, cells, strict=True)
        ],
        notes=notes,
    )


def table_tree(lines: Sequence[ModelLine]) -> list[dict[str, Any]]:
    """Everything in the tables as JSON."""
    return [
        {
            "model": line.name,
            "rows": [row_tree(row) for row in line.rows],
            "other_tools": [asdict(score) for score in line.others],
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


def _cells(line: ModelLine) -> Mapping[str, str]:
    cells: dict[str, str] = {}
    for row in line.rows:
        cells.setdefault(_heading(row), f"{percent(row.value)} (n={row.n})")
    for other in line.others:
        heading = f"{other.task} {other.metric} [{other.tool}]"
        count = f" (n={other.n})" if other.n is not None else ""
        cells.setdefault(heading, f"{other.value:.6g}{count}")
    return cells


def _heading(row: Row) -> str:
    return f"{row.condition} {_SAFETY.get(row.metric, row.metric)}"


def _safety_rows(one: StoredEvaluation) -> list[Row]:
    subset_of = {sample.condition: sample.subset for sample in one.samples}
    return [
        row
        for row in headline(one.rows)
        if SUBSETS.get(row.metric) == subset_of.get(row.condition) and row.metric in _SAFETY
    ]


def _generator(one: StoredEvaluation) -> str:
    """What tells models apart: the generator's key; for evaluations that recorded none, themselves."""
    key = one.record.generator
    return digest_of(key) if key else one.id
