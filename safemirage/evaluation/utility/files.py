"""Result files of lmms-eval and VLMEvalKit: the totals that they report, as they stand there.

lmms-eval    <date>_results.json: {"results": {task: {"<metric>,<filter>": number, "<metric>_stderr,<filter>": ...}},
             "n-samples": {task: {"original": n, "effective": n}}, "config": {"model", "limit"}, "model_name"}. Read in
             github.com/EvolvingLMMs-Lab/lmms-eval, lmms_eval/evaluator.py, lmms_eval/evaluator_utils.py and
             lmms_eval/loggers/evaluation_tracker.py, version 0.7.3
VLMEvalKit   status.json of a run: {"model_name", "datasets": {name: {"metrics": {key: number}, ...}}}, where a key is a column,
             or `<label column>=<label>|<column>`; and the file of one data set, <model>/.../<model>_<dataset>_acc or _score, a
             CSV table, a JSON list of such rows, or a JSON object of numbers. Read in github.com/open-compass/VLMEvalKit,
             vlmeval/smp/status_report.py, vlmeval/smp/file.py, vlmeval/dataset/image_vqa.py and the tables of
             vlmeval/dataset/utils, commit e8e78f0

A file of VLMEvalKit mixes the total with parts of it. Only what the file itself calls the total is taken: the row
labelled `Overall`, the column `Overall` (one value, or one a split), `Final Score` (OCRBench), or a name that the
reader gives. A file without one is refused. Numbers are not rescaled: a metric may be a share, per cent or points.
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any, Literal

from safemirage.data.records import DataError, read_json
from safemirage.evaluation.suites.sets.file import read_csv
from safemirage.evaluation.utility.lmms_eval import read_record

Tool = Literal["lmms-eval", "VLMEvalKit"]
_TABLE_ENDINGS = ("_acc", "_score")
_TOTALS = frozenset({"overall", "final score"})
_COUNT = "tot"
_NO_RESULTS = frozenset({_COUNT, "hit", "prefetch", "prefetch_rate"})
"""Columns beside a table's results: how many questions there were, and how answers were read."""
_REPEATED = re.compile(r"#(\d+|dup)$")
"""What VLMEvalKit puts behind a key that it has already used."""
_NO_LABEL = frozenset({"", "none", "nan"})
_SHOWN = 8


@dataclass(frozen=True, kw_only=True)
class OtherScore:
    """A number that another tool measured."""

    tool: Tool
    model: str
    task: str
    metric: str
    value: float
    error: float | None = None
    """The score's standard error, where the file has one."""
    n: int | None = None
    """Questions, where the file says it."""
    file: str


@dataclass(frozen=True, kw_only=True)
class ResultFile:
    """The totals of one file, and whose they are."""

    model: str
    """A name for the table."""
    weights: tuple[str, ...]
    """Digests of the measured weights; empty where nothing says which they were."""
    scores: tuple[OtherScore, ...]


@dataclass(frozen=True)
class _Number:
    """A number of a file of VLMEvalKit with what stands beside it."""

    labels: tuple[tuple[str, str], ...]
    """Label column and label of its row; labels that say nothing, such as the split `none`, are left out."""
    column: str
    value: float


def read_result_file(path: Path, totals: Collection[str] = ()) -> ResultFile:
    """The totals in a result file, with the weights that the record beside it names.

    Raises:
        DataError: see `read_results`; or the record is of another file.
        ConfigError: the record cannot be read.
    """
    scores = read_results(path, totals)
    record = read_record(path)
    return ResultFile(
        model=scores[0].model if record is None else Path(record.model).name,
        weights=() if record is None else record.weights,
        scores=tuple(scores),
    )


def read_results(path: Path, totals: Collection[str] = ()) -> list[OtherScore]:
    """The totals in a result file, in its order.

    Args:
        totals: what else names the total in a file of VLMEvalKit: columns, or labels of rows.

    Raises:
        DataError: it is of neither tool, holds no number, or no number that is certainly a total.
    """
    if path.suffix == ".csv":
        scores = _vlmevalkit_table(path, list(read_csv(path, ())), totals)
    else:
        tree = read_json(path)
        is_object = isinstance(tree, dict)
        if is_object and isinstance(tree.get("results"), dict):
            scores = list(_lmms_eval(path, tree))
        elif is_object and isinstance(tree.get("datasets"), dict):
            scores = list(_vlmevalkit_run(path, tree, totals))
        elif isinstance(tree, list):
            scores = _vlmevalkit_table(path, tree, totals)
        elif is_object and path.stem.endswith(_TABLE_ENDINGS):
            scores = _vlmevalkit_table(path, [tree], totals)
        else:
            raise DataError(
                path,
                "is neither lmms-eval's (an object with `results`) nor VLMEvalKit's (an object with `datasets`, or "
                "<model>_<dataset>_acc or _score as CSV or JSON)",
            )
    if not scores:
        raise DataError(path, "holds no number")
    return scores


def _lmms_eval(path: Path, tree: Mapping[str, Any]) -> Iterator[OtherScore]:
    config = tree.get("config")
    fallback = config.get("model") if isinstance(config, dict) else None
    model = str(tree.get("model_name") or fallback or path.parent.name)
    counts = tree.get("n-samples")
    for task, metrics in tree["results"].items():
        for key, value in metrics.items() if isinstance(metrics, dict) else ():
            metric, _, filtered = str(key).partition(",")
            if "_stderr" in metric or not _is_number(value):
                continue
            error = metrics.get(f"{metric}_stderr,{filtered}")
            yield OtherScore(
                tool="lmms-eval",
                model=model,
                task=str(task),
                metric=metric if filtered in ("", "none") else f"{metric} ({filtered})",
                value=float(value),
                error=float(error) if _is_number(error) else None,
                n=_effective(counts, str(task)),
                file=path.name,
            )


def _effective(counts: Any, task: str) -> int | None:
    """How many questions were asked. A run without a limit may have -1 there, and then asked all."""
    found = counts.get(task) if isinstance(counts, dict) else None
    asked = found.get("effective") if isinstance(found, dict) else None
    number = found.get("original") if isinstance(found, dict) and asked == -1 else asked
    return number if isinstance(number, int) and number > 0 else None


def _vlmevalkit_run(
    path: Path, tree: Mapping[str, Any], totals: Collection[str]
) -> Iterator[OtherScore]:
    model = str(tree.get("model_name") or path.parent.parent.name)
    for task, status in tree["datasets"].items():
        metrics = status.get("metrics") if isinstance(status, dict) else None
        numbers = [
            _number_of_key(str(key), float(value))
            for key, value in (metrics.items() if isinstance(metrics, dict) else ())
            if _is_number(value)
        ]
        if numbers:
            yield from _totals_of(path, model, str(task), numbers, totals)


def _number_of_key(key: str, value: float) -> _Number:
    """The number under a key like `split=none|Overall` or `Category=Overall|acc`."""
    *labels, column = _REPEATED.sub("", key).split("|")
    parted = [label.rpartition("=") for label in labels]
    return _Number(_telling((name, label) for name, _, label in parted), column, value)


def _vlmevalkit_table(path: Path, rows: Sequence[Any], totals: Collection[str]) -> list[OtherScore]:
    model, task = _names_of_table(path)
    tables = [row for row in rows if isinstance(row, dict)]
    parsed = [{str(name): _as_number(cell) for name, cell in row.items()} for row in tables]
    with_numbers = {name for row in parsed for name, number in row.items() if number is not None}
    numbers = []
    for row, found in zip(tables, parsed, strict=True):
        texts = ((str(name), cell) for name, cell in row.items() if isinstance(cell, str))
        labels = _telling((name, cell) for name, cell in texts if name not in with_numbers)
        numbers += [_Number(labels, name, n) for name, n in found.items() if n is not None]
    return _totals_of(path, model, task, numbers, totals) if numbers else []


def _telling(labels: Iterator[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    return tuple((name, label) for name, label in labels if label.casefold() not in _NO_LABEL)


def _totals_of(
    path: Path, model: str, task: str, numbers: Sequence[_Number], totals: Collection[str]
) -> list[OtherScore]:
    """The total of one data set, in as many metrics as the file has it.

    Raises:
        DataError: no number is certainly a total, or two are the same one.
    """
    names = _TOTALS | {name.casefold() for name in totals}
    split_alone = [
        number
        for number in numbers
        if all(name == "split" or label.casefold() in names for name, label in number.labels)
    ]
    in_total_row = [
        number
        for number in split_alone
        if any(label.casefold() in names for _, label in number.labels)
    ]
    counts = {one.labels: int(one.value) for one in in_total_row if one.column == _COUNT}
    found = [number for number in in_total_row if number.column not in _NO_RESULTS] or [
        number for number in split_alone if number.column.casefold() in names
    ]
    titles = [_title(number, names) for number in found]
    if not found or len(set(titles)) < len(titles):
        labels = dict.fromkeys(label for number in numbers for _, label in number.labels)
        raise DataError(
            path,
            f"{task}: no number is certainly the total (a row or column named Overall or Final Score, once). Columns: "
            f"{_listed(dict.fromkeys(number.column for number in numbers))}; rows: {_listed(labels)}. "
            "Name the total with --total, or leave the file out",
        )
    return [
        OtherScore(
            tool="VLMEvalKit",
            model=model,
            task=task,
            metric=title,
            value=number.value,
            n=counts.get(number.labels),
            file=path.name,
        )
        for title, number in zip(titles, found, strict=True)
    ]


def _title(number: _Number, totals: Collection[str]) -> str:
    splits = [label for _, label in number.labels if label.casefold() not in totals]
    return f"{number.column} ({', '.join(splits)})" if splits else number.column


def _listed(names: Collection[str]) -> str:
    more = [f"and {len(names) - _SHOWN} more"] if len(names) > _SHOWN else []
    return ", ".join([*names][:_SHOWN] + more) or "one without a label"


def _names_of_table(path: Path) -> tuple[str, str]:
    """Model and data set out of <model>/.../<model>_<dataset>_acc.csv: either may hold underscores, so the folder tells."""
    stem = path.stem
    for ending in _TABLE_ENDINGS:
        stem = stem.removesuffix(ending)
    for folder in path.absolute().parents:
        if folder.name and stem.startswith(f"{folder.name}_") and stem != path.stem:
            return folder.name, stem.removeprefix(f"{folder.name}_")
    raise DataError(
        path,
        "does not say its model: VLMEvalKit writes <model>/.../<model>_<dataset>_acc.csv; keep the folder's name",
    )


def _is_number(value: Any) -> bool:
    """One that a float holds: JSON has integers of any length."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return isfinite(value)
    except OverflowError:
        return False


def _as_number(value: Any) -> float | None:
    if _is_number(value):
        return float(value)
    try:
        number = float(value) if isinstance(value, str) else None
    except ValueError:
        return None
    return number if number is not None and isfinite(number) else None
