"""Result files of lmms-eval and VLMEvalKit: their numbers, as they stand there.

lmms-eval    <date>_results.json: {"results": {task: {"<metric>,<filter>": number, "<metric>_stderr,<filter>": ...}},
             "n-samples": {task: {"effective": n}}, "config": {"model"}, "model_name"}. Read in
             github.com/EvolvingLMMs-Lab/lmms-eval, lmms_eval/evaluator.py and lmms_eval/loggers/evaluation_tracker.py, commit 75571cf
VLMEvalKit   status.json of a run: {"model_name", "datasets": {name: {"metrics": {name: number}, ...}}}; or
             <model>_<dataset>_acc.csv, _acc.json, _score.csv, _score.json: a table with `split` and a column a number, which has no n.
             Read in github.com/open-compass/VLMEvalKit, vlmeval/smp/status_report.py, vlmeval/smp/file.py and
             vlmeval/dataset/image_vqa.py, commit e8e78f0

Numbers are not rescaled: a metric may be a share, per cent or points.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any, Literal

from safemirage.data.records import DataError, read_json
from safemirage.evaluation.sets.reading import read_csv

Tool = Literal["lmms-eval", "VLMEvalKit"]
_TABLE_ENDINGS = ("_acc", "_score")


@dataclass(frozen=True, kw_only=True)
class OtherScore:
    """A number that another tool measured."""

    tool: Tool
    model: str
    task: str
    metric: str
    value: float
    error: float | None = None
    """Its standard error, where the file has one."""
    n: int | None = None
    """Questions, where the file says it."""
    file: str


def read_results(path: Path) -> list[OtherScore]:
    """The numbers of a result file, in its order.

    Raises:
        DataError: it is of neither tool, or holds no number.
    """
    if path.suffix == ".csv":
        scores = list(_vlmevalkit_table(path, list(read_csv(path, ()))))
    else:
        tree = read_json(path)
        if isinstance(tree, dict) and isinstance(tree.get("results"), dict):
            scores = list(_lmms_eval(path, tree))
        elif isinstance(tree, dict) and isinstance(tree.get("datasets"), dict):
            scores = list(_vlmevalkit_run(path, tree))
        elif isinstance(tree, list):
            scores = list(_vlmevalkit_table(path, tree))
        else:
            raise DataError(
                path,
                "is neither lmms-eval's (`results`) nor VLMEvalKit's (`datasets`, or a table of numbers)",
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
            if metric.endswith("_stderr") or not _is_number(value):
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
    """A run without a limit may have -1 there, which is no number of questions."""
    found = counts.get(task) if isinstance(counts, dict) else None
    for key in ("effective", "original"):
        number = found.get(key) if isinstance(found, dict) else None
        if isinstance(number, int) and number > 0:
            return number
    return None


def _vlmevalkit_run(path: Path, tree: Mapping[str, Any]) -> Iterator[OtherScore]:
    model = str(tree.get("model_name") or path.parent.parent.name)
    for task, status in tree["datasets"].items():
        metrics = status.get("metrics") if isinstance(status, dict) else None
        for metric, value in metrics.items() if isinstance(metrics, dict) else ():
            if _is_number(value):
                yield _vlmevalkit(path, model, str(task), str(metric), float(value))


def _vlmevalkit_table(path: Path, rows: list[Any]) -> Iterator[OtherScore]:
    model, task = _names_of_table(path)
    for row in rows:
        cells = row if isinstance(row, dict) else {}
        split = cells.get("split")
        for metric, value in cells.items():
            number = _as_number(value)
            if metric != "split" and number is not None:
                shown = metric if split in (None, "", "none") else f"{metric} ({split})"
                yield _vlmevalkit(path, model, task, str(shown), number)


def _vlmevalkit(path: Path, model: str, task: str, metric: str, value: float) -> OtherScore:
    return OtherScore(
        tool="VLMEvalKit", model=model, task=task, metric=metric, value=value, file=path.name
    )


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
